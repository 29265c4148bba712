/*
 * Loaded into nfs-ganesha with LD_PRELOAD: Debian's build gives up when it cannot register with rpcbind, and the tests
 * want neither port 111 nor anything else that the whole machine sees. Clients of these servers are told both ports.
 */
int rpcb_set(void) { return 1; }
int rpcb_unset(void) { return 1; }
