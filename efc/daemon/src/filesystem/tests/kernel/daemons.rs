//! The daemons of a mount, one after the other: mounting, SIGKILL, delivering again.

use super::*;

/// A copy of the saved state as it is now: what a SIGKILL leaves.
fn copy(memfd: &OwnedFd) -> OwnedFd {
    let size = rustix::fs::fstat(memfd).unwrap().st_size as u64;
    let copied = memfd_new();
    rustix::fs::ftruncate(&copied, size).unwrap();
    let (mut offset, mut buffer) = (0, vec![0; 1 << 20]);
    while let Ok(begin) = rustix::fs::seek(memfd, SeekFrom::Data(offset)) {
        let end = rustix::fs::seek(memfd, SeekFrom::Hole(begin)).unwrap();
        offset = begin;
        while offset < end {
            let length = (end - offset).min(buffer.len() as u64) as usize;
            let read = rustix::io::pread(memfd, &mut buffer[..length], offset).unwrap();
            let written = rustix::io::pwrite(&copied, &buffer[..read], offset).unwrap();
            offset += written as u64;
        }
    }
    rustix::fs::fcntl_add_seals(&copied, SealFlags::SHRINK).unwrap();
    copied
}

fn memfd_new() -> OwnedFd {
    rustix::fs::memfd_create("efc-model-test", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap()
}

impl Shared {
    /// What a daemon stands on.
    fn storage(&self) -> Sources<Client> {
        if self.several.is_empty() {
            return Sources::One(self.nas.client(self.number, self.time_limit));
        }
        let properties = Properties { read_max: 1 << 17, write_max: 1 << 16, ignores_case: false };
        let source = |(number, (path, nas)): (u8, &(Path, Nas))| {
            let root = (nas.root(), nas.attr("").unwrap());
            let client = nas.client(self.number, self.time_limit);
            Source::new((number, path.clone()), root, (properties, false), (number.into(), client))
        };
        let list = (1..).zip(&self.several).map(source).collect();
        Sources::Several(Several::new(list, Time::default(), self.time_limit))
    }
}

impl Kernel {
    /// Mounts the NAS; each `number` is another node.
    pub fn mount(nas: &Nas, number: u32, settings: Settings, time_limit: Option<Duration>) -> Kernel {
        Kernel::mount_with(nas, number, settings, time_limit, None)
    }

    /// One that agrees on passthrough, if there are files for that.
    pub fn mount_with(
        nas: &Nas,
        number: u32,
        settings: Settings,
        time_limit: Option<Duration>,
        registry: Option<Arc<Registry>>,
    ) -> Kernel {
        Kernel::mount_at_paths((nas, Vec::new()), number, settings, time_limit, registry)
    }

    /// Mounts several, each at a path; it agrees on passthrough, if there are files for that.
    pub fn mount_several(several: &[(&str, &Nas)], settings: Settings, registry: Option<Arc<Registry>>) -> Kernel {
        let at_path = |(path, nas): &(&str, &Nas)| (Path::new(path.as_bytes()).expect("a path"), (*nas).clone());
        Kernel::mount_at_paths((several[0].1, several.iter().map(at_path).collect()), 1, settings, None, registry)
    }

    fn mount_at_paths(
        (nas, several): (&Nas, Vec<(Path, Nas)>),
        number: u32,
        settings: Settings,
        time_limit: Option<Duration>,
        registry: Option<Arc<Registry>>,
    ) -> Kernel {
        let backings = registry.clone().map(|registry| registry as Arc<dyn Backings>);
        let settings = Settings { backings, ..settings };
        let kernel = Kernel(Arc::new(Shared {
            nas: nas.clone(),
            several,
            number,
            settings,
            time_limit,
            registry,
            tables: Mutex::default(),
            daemon: Mutex::default(),
            callers: Arc::default(),
            ended: Wakeup::new(),
            serving: AtomicU32::new(simulation::OUTSIDE),
            kills: AtomicU32::new(0),
        }));
        let now = efc_tasks::time::now();
        let attr = Attr { mode: libc::S_IFDIR | 0o777, ..Attr::default() };
        let root = Inode { lookups: 1, users: 1, ..Inode::new(attr, now, 0) };
        kernel.0.tables().inodes.insert(ROOT, root);
        kernel.start(memfd_new());
        kernel
    }

    /// Starts a daemon with this saved state.
    fn start(&self, memfd: OwnedFd) {
        static PROCESSES: AtomicU32 = AtomicU32::new(1);
        let process = PROCESSES.fetch_add(1, Ordering::Relaxed);
        self.0.serving.store(process, Ordering::Relaxed);
        simulation::in_process(process, || {
            let is_of_several = !self.0.several.is_empty();
            let open = if is_of_several { State::open_of_several } else { State::open };
            let state = Arc::new(open(memfd.try_clone().unwrap()).expect("a state"));
            let is_successor = state.is_resumed();
            let (root, fileid) = if is_of_several {
                (own_root(), ROOT)
            } else {
                (self.0.nas.root(), self.0.nas.attr("").unwrap().fileid)
            };
            if !is_successor {
                state.set_root(&Node { handle: root.as_bytes().to_vec(), fileid, kind: libc::S_IFDIR });
            }
            let session_config = SessionConfig { passthrough: self.0.registry.is_some(), ..SessionConfig::default() };
            let weak = Arc::downgrade(&self.0);
            let tap = move |name: u64, error: i32, content: &[u8]| {
                let kernel = weak.upgrade().filter(|kernel| kernel.serving.load(Ordering::Relaxed) == process);
                kernel.is_some_and(|kernel| kernel.answered(name, error, content))
            };
            let session = Session::simulated(state.clone(), session_config, Box::new(tap)).unwrap();
            let ignores_case = self.0.nas.options().ignores_case;
            let properties = Properties { read_max: 1 << 17, write_max: 1 << 17, ignores_case };
            let client = self.0.storage();
            let (notify, callers) = (Arc::new(Notified(Arc::downgrade(&self.0))), self.0.callers.clone());
            let efc = Arc::new(Efc::new(client, properties, state.clone(), notify, callers, self.0.settings.clone()));
            if is_successor {
                efc.reap_orphans();
                drop_unclaimed(session.clone());
            }
            *self.0.daemon.lock().unwrap() = Some(Daemon { process, session, efc, state, memfd });
        });
    }

    /// SIGKILL of the daemon, and a successor that the kernel delivers again to what is unanswered.
    pub fn kill_daemon(&self) {
        log::debug!("the daemon is killed");
        self.0.kills.fetch_add(1, Ordering::Relaxed);
        let old = self.0.daemon.lock().unwrap().take().expect("a daemon");
        let memfd = copy(&old.memfd);
        self.0.serving.store(simulation::OUTSIDE, Ordering::Relaxed);
        let uniques: Vec<u64> = {
            let mut tables = self.0.tables();
            // From now on the old one's answers are to requests that nobody knows.
            tables.pending.iter_mut().for_each(|(unique, pending)| pending.name = name_of_resent(*unique));
            tables.pending.keys().copied().collect()
        };
        let simulation = simulation::current().expect("a simulation");
        simulation.kill(old.process);
        simulation::in_process(old.process, || drop(old));
        self.start(memfd);
        for unique in uniques {
            self.deliver(unique, true);
        }
    }

    pub(super) fn deliver(&self, unique: u64, resent: bool) {
        let request = {
            let tables = self.0.tables();
            let Some(pending) = tables.pending.get(&unique) else { return };
            (pending.make)(pending.name, resent)
        };
        log::debug!("{unique} of {}, node {:x}, {resent}: {:.200?}", request.pid, request.node, request.operation);
        self.with_daemon(|daemon| daemon.session.deliver(request, &*daemon.efc));
    }

    pub(super) fn with_daemon<T>(&self, act: impl FnOnce(&Daemon) -> T) -> T {
        let (process, efc, state, session, memfd) = {
            let daemon = self.0.daemon.lock().unwrap();
            let daemon = daemon.as_ref().expect("a daemon");
            let memfd = daemon.memfd.as_fd().try_clone_to_owned().unwrap();
            (daemon.process, daemon.efc.clone(), daemon.state.clone(), daemon.session.clone(), memfd)
        };
        let daemon = Daemon { process, efc, state, session, memfd };
        simulation::in_process(process, || act(&daemon))
    }
}
