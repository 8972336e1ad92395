//! Slow readers hold all the memory that there is for them: what developers are told meanwhile, and afterwards.

use super::*;
use crate::memory::{
    Purpose,
    tests::{alone, exhaust},
};

const PODS: usize = 100;

/// One developer may intercept so many pods that how they stand takes more than each tunnel may hold anyway.
fn with_many_pods(world: &TunnelRig) -> Policy {
    let mut text = String::from("[agent]\nlisten = \"127.0.0.1:7447\"\nkey = \"/k\"\n");
    for number in 1..=PODS {
        let name = format!("web-{number}");
        text += &format!(
            "[[pod]]\nname = \"{name}\"\nlabels = {{ app = \"web\" }}\nnetns = \"/run/netns/{name}\"\n\
             [[pod]]\nname = \"with-a-name-of-some-length-as-deployments-have-them-{name}\"\nlabels = {{ app = \"web\" }}\n\
             netns = \"/run/netns/other-{name}\"\n"
        );
    }
    for (name, identity) in [("alice", &world.alice), ("bob", &world.bob)] {
        text += &format!("[[developer]]\nname = \"{name}\"\nkey = \"{}\"\npods = [{{}}]\n", identity.pin());
    }
    Arc::new(NodeConfig::parse(&text, Path::new("agent.toml")).unwrap())
}

fn of_all_pods(token: u8) -> InterceptRequest {
    let labels = [("app".to_owned(), "web".to_owned())].into_iter().collect();
    InterceptRequest { selector: Selector::Labels(labels), ..request(token) }
}

fn code(answer: &ToDeveloper) -> Option<RefusedCode> {
    match answer {
        ToDeveloper::Refused(refused) => Some(refused.code),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn how_an_intercept_stands_is_told_once_there_is_memory() {
    if !alone("tunnel::tests::scarce::how_an_intercept_stands_is_told_once_there_is_memory") {
        return;
    }
    let world = TunnelRig::new();
    world.config.send_replace(with_many_pods(&world));
    let mut bob = world.dial(&world.bob).await;
    bob.intercept(request(2)).await;
    let mut alice = world.dial(&world.alice).await;
    alice.intercept(of_all_pods(1)).await;
    let all_are_live = |state: &InterceptState| state.pods.iter().filter(|pod| pod.state == Liveness::Live).count();
    let stands = alice.state(|state| all_are_live(state) >= 2 * PODS - 1).await;
    assert!(!stands.conflicts.is_empty());

    let all = exhaust(Purpose::SlowReader);
    drop(bob);
    world.plans_become(|plan| plan.is_some_and(|plan| plan.global.as_ref().unwrap().id == stands.id)).await;
    assert_eq!(code(&alice.ask(ToAgent::List).await), Some(RefusedCode::NoMemory));
    assert!(world.plan().is_some(), "the intercept lives");
    drop(all);
    alice.state(|state| state.conflicts.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_for_the_answer_nothing_is_intercepted() {
    if !alone("tunnel::tests::scarce::without_memory_for_the_answer_nothing_is_intercepted") {
        return;
    }
    let world = TunnelRig::new();
    world.config.send_replace(with_many_pods(&world));
    let mut alice = world.dial(&world.alice).await;
    let all = exhaust(Purpose::SlowReader);
    let refused = alice.ask(ToAgent::Intercept(of_all_pods(1))).await;
    assert_eq!(code(&refused), Some(RefusedCode::NoMemory));
    let ToDeveloper::Status(status) = alice.ask(ToAgent::Status).await else { panic!() };
    assert_eq!(status.intercepts.len(), 0);
    assert!(world.plan().is_none(), "nothing is steered to who does not know of it");
    drop(all);
    assert_eq!(alice.intercept(of_all_pods(1)).await.pods.len(), 2 * PODS);
}
