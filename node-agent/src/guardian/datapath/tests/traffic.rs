//! Real connections through a pod's datapath.

use std::net::SocketAddr;
use std::time::Instant;

use super::super::Attach;
use super::rig::*;

#[test]
fn smoke() {
    let pair = Pair::new();
    let app = App::new(&pair.pod);
    let listeners = Listeners::new(&pair.pod);
    let t = Instant::now();
    let mut d = load(&pair.pod, &pair.devices(), &[POD_V4, POD_V6], &listeners, Attach::Auto);
    println!("load {:?}", t.elapsed());
    for (name, p) in d.ebpf.programs() {
        if let Ok(i) = p.info() {
            println!(
                "{name}: insns {:?} xlated {:?} jited {:?}",
                i.verified_instruction_count(),
                i.size_translated(),
                i.size_jitted()
            );
        }
    }
    d.arm(APP_PORT, super::super::Gate::AppListening).unwrap();
    let t = Instant::now();
    d.attach().unwrap();
    println!("attach {:?} {}", t.elapsed(), pair.pod.footprint());
    let hb = Heartbeat::of(&d);
    hb.beat();
    for (pod, client) in FAMILIES {
        let s = Since::now(&d);
        let c = connect(&pair.client, None, SocketAddr::new(pod, APP_PORT)).unwrap();
        let (a, peer) = accept(listeners.of(pod));
        assert_eq!(peer, c.local_addr().unwrap());
        let u = upstream(&pair.pod, pod, 777, client).unwrap();
        let (k, kp) = accept(app.of(pod));
        assert_eq!(kp, SocketAddr::new(client, 777));
        carries(&c, &a, b"hello");
        carries(&u, &k, &vec![7; 1 << 20]);
        carries(&k, &u, &vec![8; 1 << 20]);
        println!("{:?}", s.moved(&d));
    }
}
