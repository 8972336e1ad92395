//! A pod that is intercepted for real. The test plays the worker: it holds the listeners and writes the heartbeat.

use std::net::{IpAddr, SocketAddr, TcpStream};

use super::{
    super::{AttachMode, PodDatapath, PodDevice, SteerGate},
    rig::*,
};

/// The ways of attaching that this kernel has.
pub(super) fn hooks() -> Vec<AttachMode> {
    let tcx = redir_rig::tcx::is_here().then_some(AttachMode::Tcx);
    tcx.into_iter().chain([AttachMode::Clsact]).collect()
}

pub(super) const MIB: usize = 1 << 20;

/// A pod that is intercepted, with everything around it.
pub(super) struct InterceptedPod {
    pub(super) datapath: PodDatapath,
    pub(super) heartbeat: TestHeartbeat,
    pub(super) listeners: TestListeners,
    pub(super) app: TestApp,
    pub(super) pair: PodAndClient,
}

impl InterceptedPod {
    pub(super) fn new(attach: AttachMode) -> Self {
        let pair = PodAndClient::new();
        let devices = pair.devices();
        Self::on(pair, &devices, attach)
    }

    pub(super) fn on(pair: PodAndClient, devices: &[PodDevice], attach: AttachMode) -> Self {
        let (app, listeners) = (TestApp::new(&pair.pod), TestListeners::new(&pair.pod));
        let mut datapath = load(&pair.pod, devices, &[POD_V4, POD_V6], &listeners, attach);
        datapath.arm(APP_PORT, SteerGate::AppListening).unwrap();
        datapath.attach(&mut || {}).unwrap();
        assert_eq!(datapath.hook(), attach);
        let heartbeat = TestHeartbeat::of(&datapath);
        heartbeat.beat();
        Self { datapath, heartbeat, listeners, app, pair }
    }

    pub(super) fn connect(&self, from: Option<SocketAddr>, pod: IpAddr) -> std::io::Result<TcpStream> {
        self.heartbeat.beat();
        connect(&self.pair.client, from, SocketAddr::new(pod, APP_PORT))
    }

    /// The app goes; another one, elsewhere, takes its place here.
    pub(super) fn stop_app(&mut self) {
        self.app = TestApp::new(&TestNetns::new());
        until_closed(&self.pair.pod, APP_PORT);
    }

    /// A connection from the client that the agent has accepted.
    #[track_caller]
    pub(super) fn steered(&self, from: Option<SocketAddr>, pod: IpAddr) -> (TcpStream, TcpStream) {
        let client = self.connect(from, pod).unwrap();
        let (agent, peer) = accept(self.listeners.of(pod));
        assert_eq!(peer, client.local_addr().unwrap(), "the agent sees the client's own address");
        assert_eq!(agent.local_addr().unwrap(), SocketAddr::new(pod, APP_PORT));
        (client, agent)
    }

    /// A connection of the client that went past the agent.
    #[track_caller]
    pub(super) fn reaches_app(&self, pod: IpAddr) {
        let client = self.connect(None, pod).unwrap();
        let (_accepted, peer) = accept(self.app.of(pod));
        assert_eq!(peer, client.local_addr().unwrap());
        assert!(!is_waiting(self.listeners.of(pod)), "the agent got it as well");
    }

    #[track_caller]
    pub(super) fn all_reach_app(&self) {
        for (address, _) in FAMILIES {
            self.reaches_app(address);
        }
    }

    #[track_caller]
    pub(super) fn all_are_steered(&self) {
        for (address, _) in FAMILIES {
            self.steered(None, address);
        }
    }

    /// The agent's leg to the app, which sees the client's address.
    #[track_caller]
    pub(super) fn reflected(&self, port: u16, pod: IpAddr, client: IpAddr) -> (TcpStream, TcpStream) {
        let agent = upstream(&self.datapath, &self.pair.pod, pod, port, client).unwrap();
        let (accepted, peer) = accept(self.app.of(pod));
        assert_eq!(peer, SocketAddr::new(client, port));
        assert_eq!(accepted.local_addr().unwrap(), SocketAddr::new(pod, APP_PORT));
        (agent, accepted)
    }
}

pub(super) fn bytes() -> Vec<u8> {
    (0..MIB).map(|i| u8::try_from(i % 251).unwrap()).collect()
}
