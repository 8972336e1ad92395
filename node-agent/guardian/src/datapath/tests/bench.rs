//! What the programs decide over crafted packets, by `BPF_PROG_TEST_RUN`: the counter that moved, the verdict, and for
//! `reflect` the bytes. Sockets are real. An assignment cannot be carried out in a test run, so it is counted as decided
//! and as failed; that it leads to the agent is `traffic`'s to show.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream},
    os::fd::AsFd,
    time::Instant,
};

use aya::{
    maps::HashMap,
    programs::{TestRun, TestRunOptions},
};
use redir_abi::{MappedAddress, Reason, map, program};
use socket2::{Domain, Socket, Type};

use super::{
    super::maps::monotonic_nanos,
    super::{AttachMode, LinkLayer, PodDatapath, PodDevice, SteerGate, object},
    packets::*,
    rig::*,
};

/// `TCX_NEXT`, `TCX_DROP`, `TCX_REDIRECT` as a test run returns them.
pub(super) const NEXT: u32 = u32::MAX;
pub(super) const DROP: u32 = 2;
pub(super) const REDIRECT: u32 = 7;

pub(super) const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A pod with an app and the agent's listeners, its programs loaded and attached nowhere.
pub(super) struct ProgramBench {
    pub(super) net: TestNetns,
    pub(super) app: Option<TestApp>,
    pub(super) listeners: Option<TestListeners>,
    pub(super) datapath: PodDatapath,
    pub(super) heartbeat: TestHeartbeat,
    /// The worker's last sign of life, if it is not to be a fresh one for every packet.
    pub(super) beat: Option<u64>,
}

#[derive(Debug)]
pub(super) struct ProgramRun {
    pub(super) verdict: u32,
    pub(super) reasons: Vec<Reason>,
    pub(super) bytes: Vec<u8>,
    pub(super) mark: u32,
}

impl ProgramBench {
    pub(super) fn new() -> Self {
        let net = TestNetns::new();
        net.sh("ip addr add 10.77.0.2/32 dev lo; ip addr add fd77::2/128 dev lo nodad; ip route add 10.77.0.0/24 dev lo; ip -6 route add fd77::/64 dev lo");
        let (app, listeners) = (TestApp::new(&net), TestListeners::new(&net));
        // Loopback stands for the pod's device: nothing is attached to it.
        let device = PodDevice { index: 1, name: "lo".into(), framing: LinkLayer::Ethernet };
        let addresses = [POD_V4, POD_V6, LOCAL[0], LOCAL[1]];
        let mut datapath = load(&net, &[device], &addresses, &listeners, AttachMode::Auto);
        datapath.arm(APP_PORT, SteerGate::AppListening).unwrap();
        let heartbeat = TestHeartbeat::of(&datapath);
        Self { net, app: Some(app), listeners: Some(listeners), datapath, heartbeat, beat: None }
    }

    pub(super) fn run(&mut self, program: &'static str, frame: &[u8], mark: u32) -> ProgramRun {
        match self.beat {
            Some(nanos) => self.heartbeat.set(nanos),
            None => self.heartbeat.beat(),
        }
        let since = CounterDelta::now(&self.datapath);
        let mut ctx_in = [0; 12];
        ctx_in[8..].copy_from_slice(&mark.to_ne_bytes());
        let (mut bytes, mut ctx_out) = (vec![0; 512], [0; 256]);
        let program = object::classifier(&mut self.datapath.ebpf, program, &mut || {}).unwrap();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut bytes),
            ctx_in: Some(&ctx_in),
            ctx_out: Some(&mut ctx_out),
            ..TestRunOptions::new()
        };
        let result = self.net.run(|| program.test_run(options)).unwrap();
        bytes.truncate(result.data_size_out.try_into().unwrap());
        let mark = u32::from_ne_bytes(ctx_out[8..12].try_into().unwrap());
        let moved = since.moved(&self.datapath);
        // A lookup of a listener runs nothing here: the companion is not attached.
        ProgramRun {
            verdict: result.return_value,
            reasons: moved.iter().map(|(reason, _)| *reason).collect(),
            bytes,
            mark,
        }
    }

    /// Runs `steer` and checks that it decided so, and left the packet alone.
    #[track_caller]
    pub(super) fn steer(&mut self, frame: &TestFrame, expected: Reason) {
        self.steer_by(program::STEER, frame, 0, expected);
    }

    #[track_caller]
    pub(super) fn steer_by(&mut self, program: &'static str, frame: &TestFrame, mark: u32, expected: Reason) {
        let bytes = frame.bytes();
        let outcome = self.run(program, &bytes, mark);
        let assigns = matches!(expected, Reason::SteerAssigned | Reason::SteerCookie);
        let all = if assigns { vec![expected, Reason::SteerAssignFailed] } else { vec![expected] };
        assert_eq!(outcome.reasons, all, "{frame:?}");
        assert_eq!((outcome.verdict, outcome.mark), (NEXT, mark), "{frame:?}");
        assert!(outcome.bytes == bytes, "steer changed the packet: {frame:?}");
    }

    /// Runs `reflect` over a packet with a mark, and checks the reason and that the verdict is the reason's.
    #[track_caller]
    pub(super) fn reflect(&mut self, frame: &TestFrame, mark: u32, expected: Reason) -> ProgramRun {
        let bytes = frame.bytes();
        let outcome = self.run(program::REFLECT, &bytes, mark);
        assert_eq!(outcome.reasons, [expected], "{frame:?}");
        let verdict = match expected.verdict() {
            redir_abi::PacketVerdict::Next => NEXT,
            redir_abi::PacketVerdict::Drop => DROP,
            redir_abi::PacketVerdict::Redirect => REDIRECT,
        };
        assert_eq!(outcome.verdict, verdict, "{frame:?}");
        if verdict != REDIRECT {
            assert!(outcome.bytes == bytes && outcome.mark == mark, "reflect changed a packet it left: {frame:?}");
        }
        outcome
    }

    /// A connection to the app over loopback, from a given port.
    pub(super) fn connection(&self, address: IpAddr, from: u16, agents: bool) -> (TcpStream, TcpStream) {
        let to = SocketAddr::new(address, APP_PORT);
        let datapath = &self.datapath;
        let stream = self.net.run(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            if agents {
                datapath.make_leg(socket.as_fd(), false).unwrap();
            }
            socket.bind(&SocketAddr::new(address, from).into()).unwrap();
            socket.connect_timeout(&to.into(), patience()).unwrap();
            TcpStream::from(socket)
        });
        let (accepted, _) = accept(self.app.as_ref().unwrap().of(address));
        (stream, accepted)
    }

    /// As if a leg with this tuple had just been turned round.
    pub(super) fn remember(&mut self, pod: SocketAddr, client: SocketAddr) {
        let mut key = [0; 36];
        key[..16].copy_from_slice(&MappedAddress::from(client.ip()).0);
        key[16..32].copy_from_slice(&MappedAddress::from(pod.ip()).0);
        key[32..34].copy_from_slice(&pod.port().to_be_bytes());
        key[34..].copy_from_slice(&client.port().to_be_bytes());
        let mut legs: HashMap<_, [u8; 36], u64> = self.datapath.ebpf.map_mut(map::LEGS).unwrap().try_into().unwrap();
        legs.insert(key, monotonic_nanos().unwrap(), 0).unwrap();
    }

    /// As if its minute were over.
    pub(super) fn forget(&mut self) {
        let mut legs: HashMap<_, [u8; 36], u64> = self.datapath.ebpf.map_mut(map::LEGS).unwrap().try_into().unwrap();
        let known: Vec<_> = legs.keys().map(Result::unwrap).collect();
        known.iter().for_each(|leg| legs.remove(leg).unwrap());
    }

    /// Ends a connection, so that TIME_WAIT is on the first one's side. Dropping alone would not: a child that another
    /// test is starting may hold a copy of a descriptor for a while.
    pub(super) fn end(first: TcpStream, second: TcpStream) {
        first.shutdown(Shutdown::Write).unwrap();
        second.shutdown(Shutdown::Write).unwrap();
        drop((first, second));
    }

    /// Runs the packet until its reason is the expected one: the kernel closes connections in its own time.
    pub(super) fn steer_until(&mut self, frame: &TestFrame, expected: Reason) {
        let start = Instant::now();
        loop {
            let outcome = self.run(program::STEER, &frame.bytes(), 0);
            if outcome.reasons == [expected] {
                return;
            }
            assert!(start.elapsed() < patience(), "{:?} instead of {expected:?}", outcome.reasons);
            std::thread::yield_now();
        }
    }
}

pub(super) fn at(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address, port)
}

pub(super) fn to_app(client: IpAddr, pod: IpAddr, flags: u8) -> TestFrame {
    TestFrame::tcp(at(client, 40_000), at(pod, APP_PORT), flags)
}
