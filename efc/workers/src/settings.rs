//! How the workers of a data set are used.

use std::time::Duration;

use efc_buffer::Budget;

use crate::keys::DataSetKey;
use crate::tls::Tls;

/// How the workers of a data set are used.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Blocks are sealed with it.
    pub key: DataSetKey,
    /// What waits to be put on workers is memory of [`Purpose::Ahead`](efc_buffer::Purpose::Ahead) of this.
    pub budget: Budget,
    /// All workers are spoken to by TLS, if there is this.
    pub tls: Option<Tls>,
    /// No answer is waited for longer; [`health::WAIT_MAX`](crate::health::WAIT_MAX) unless there is a reason.
    pub wait_max: Duration,
}
