//! Performs what the registry asks for: arms and disarms at the guardian, and tells the captures.

use std::time::Duration;

use tokio::{
    sync::{
        mpsc::{Sender, UnboundedReceiver},
        watch,
    },
    task::JoinSet,
    time::timeout,
};

use crate::{
    broker::{ArmedPort, Broker, BrokerError, ListenerGate, RefusalCode},
    capture::PodCaptures,
    control::Policy,
    registry::arming::{ArmingOp, ArmingOutcome},
    upstream::NotThrough,
};
use redir_config::PodName;
use redir_ipc::FirstHand;

use super::hub::HubCommand;

/// Runs until nobody asks any more. Different pods at the same time; one pod one thing after another, by the asker.
pub(super) async fn run(
    broker: Broker,
    captures: PodCaptures,
    policy: watch::Receiver<Policy>,
    mut ops: UnboundedReceiver<ArmingOp>,
    hub: Sender<HubCommand>,
) {
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            op = ops.recv() => match op {
                Some(op) => {
                    let (broker, captures) = (broker.clone(), captures.clone());
                    let first_hand = policy.borrow().first_hand(op.pod());
                    running.spawn(async move {
                        let outcome = perform(&broker, &captures, &op, first_hand).await;
                        (op, outcome)
                    });
                }
                None => return,
            },
            Some(done) = running.join_next() => {
                if let Ok((op, outcome)) = done {
                    // The hub has ended: so does the worker.
                    hub.send(HubCommand::Done(op, outcome)).await.ok();
                }
            }
        }
    }
}

async fn perform(broker: &Broker, captures: &PodCaptures, op: &ArmingOp, first: FirstHand) -> ArmingOutcome {
    match op {
        ArmingOp::Arm(pod, port, gate) => match arm(broker, captures, pod, *port, first).await {
            Ok(mut armed) => {
                captures.armed(pod, *port, armed.first.take());
                if let Err(outcome) = steer(broker, captures, pod, *port, *gate).await {
                    return outcome;
                }
                tracing::info!(%pod, port, "new connections are looked at");
                let (earlier, app) = (armed.earlier_connections, armed.app);
                ArmingOutcome::Armed { earlier, app, addresses: armed.pod_addresses }
            }
            // The hub says so where it is news.
            Err(error) => ArmingOutcome::Failed { reason: error.to_string(), retry: retry(&error) },
        },
        ArmingOp::Regate(pod, port, gate) => match broker.steer(pod, *port, *gate).await {
            Ok(()) => {
                tracing::info!(%pod, port, ?gate, "new connections have another gate");
                ArmingOutcome::Regated
            }
            Err(error) => {
                tracing::warn!(%pod, port, %error, "the gate of a port could not be changed; it is armed anew");
                ArmingOutcome::Failed { reason: error.to_string(), retry: retry(&error) }
            }
        },
        ArmingOp::Disarm(pod, port) => match broker.disarm(pod, *port).await {
            Ok(()) => {
                captures.disarmed(pod, *port);
                tracing::info!(%pod, port, "new connections go to the app");
                ArmingOutcome::Disarmed
            }
            Err(error) => {
                tracing::warn!(%pod, port, %error, "the port could not be disarmed; its connections pass to the app");
                ArmingOutcome::Failed { reason: error.to_string(), retry: retry(&error) }
            }
        },
    }
}

/// Steers an armed port if the way to the app works; else it is disarmed again.
async fn steer(
    broker: &Broker,
    captures: &PodCaptures,
    pod: &PodName,
    port: u16,
    gate: ListenerGate,
) -> Result<(), ArmingOutcome> {
    let tried = match captures.upstream(pod) {
        Some(upstream) => upstream.try_way(port).await.map_err(NotThrough::reason),
        None => Err("the pod's listeners could not be taken over; see the agent's log".to_owned()),
    };
    let error = match tried {
        Ok(()) => match broker.steer(pod, port, gate).await {
            Ok(()) => return Ok(()),
            Err(error) => error.to_string(),
        },
        Err(reason) => reason,
    };
    let disarmed = broker.disarm(pod, port).await;
    captures.disarmed(pod, port);
    if let Err(error) = disarmed {
        tracing::warn!(%pod, port, %error, "a port that could not be steered stays armed; nothing is steered there");
    }
    Err(ArmingOutcome::Failed { reason: error, retry: WAY_AGAIN })
}

/// Arms a port, in a pod that has taken another's place only after the other's release.
async fn arm(
    broker: &Broker,
    captures: &PodCaptures,
    pod: &PodName,
    port: u16,
    first: FirstHand,
) -> Result<ArmedPort, BrokerError> {
    // What takes longer is tried again: the developer is told meanwhile.
    timeout(RELEASE, captures.replaced(pod)).await.ok();
    let armed = broker.arm(pod, port, first).await;
    match armed {
        // The guardian holds a pod for a capture that is not there: nobody else would ever release it. Nothing is lost:
        // without its listeners it steers nothing. Only this asks for the pod's captures, so none begins meanwhile.
        Err(BrokerError::Refused { code: RefusalCode::Busy, .. }) if !captures.has(pod) => {
            broker.disarm(pod, port).await?;
            broker.release(pod).await?;
            broker.arm(pod, port, first).await
        }
        armed => armed,
    }
}

/// How long an aborted capture is waited for: its connections are reset within milliseconds.
const RELEASE: Duration = Duration::from_secs(2);

/// A pod's firewall is changed by somebody.
const WAY_AGAIN: Duration = Duration::from_secs(10);

/// A pod that is being released or restarted is back soon; anything else needs somebody to act.
fn retry(error: &BrokerError) -> Duration {
    match error {
        BrokerError::Refused { code: RefusalCode::Busy, .. } => Duration::from_millis(100),
        BrokerError::Refused { code: RefusalCode::Namespace, .. } | BrokerError::Timeout => Duration::from_secs(1),
        BrokerError::Refused { .. } | BrokerError::GuardianGone | BrokerError::Io(_) => Duration::from_secs(10),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::fd::AsFd, path::Path, sync::Arc};

    use super::*;
    use crate::{
        broker, capture,
        metrics::Metrics,
        misses::Misses,
        plan::Plans,
        shares::{ConnectionLimit, ConnectionShares},
        shutdown::StopSignals,
        tls::{GivenFor, Tls},
        upstream::ports::Ranges,
    };
    use redir_config::certificates::Certificates;
    use redir_ipc::{self as ipc, HandedSockets, REQUEST_LEN, Reply, Request};

    fn pod() -> PodName {
        PodName::new("web-1").expect("a name")
    }

    fn captures(broker: &Broker) -> PodCaptures {
        PodCaptures::new(capture::CaptureContext {
            broker: broker.clone(),
            plans: Plans::default(),
            metrics: Arc::new(Metrics::new()),
            shares: ConnectionShares::new(ConnectionLimit::of_process(None)),
            ranges: Ranges::LowFirst,
            broken: tokio::sync::mpsc::channel(1).0,
            misses: Misses::default(),
            tls: Tls::new(&Certificates::default(), GivenFor::Ports, true),
            stop: StopSignals::default(),
        })
    }

    /// Plays a guardian that gives these answers; what it was asked.
    async fn answer(guardian: impl AsFd, replies: Vec<Reply>) -> Vec<Request> {
        let mut asked = Vec::new();
        let mut buffer = [0; REQUEST_LEN];
        for reply in replies {
            let (seq, request) = loop {
                match ipc::receive_plain(guardian.as_fd(), &mut buffer) {
                    Ok(length) => break Request::decode(&buffer[..length]).expect("a request"),
                    Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            };
            asked.push(request);
            ipc::send(guardian.as_fd(), &reply.encode(seq), &[]).expect("sent");
        }
        asked
    }

    fn busy() -> Reply {
        Reply::Refused {
            code: RefusalCode::Busy,
            sentence: "web-1 has been replaced; release the old one first".into(),
        }
    }

    fn armed() -> Reply {
        let pod_addresses = vec!["10.0.0.2".parse().expect("an address")];
        Reply::Armed(ipc::ArmedReply {
            earlier: 3,
            app: None,
            pod_addresses,
            loopback_addresses: vec![],
            handed: HandedSockets::Nothing,
        })
    }

    #[tokio::test]
    async fn a_pod_that_the_guardian_holds_for_no_capture_is_released_and_armed() {
        let (guardian, ours) = ipc::pair().expect("socket pair");
        let (broker, driver, _events) = broker::start(ours, Path::new("agent.toml")).expect("started");
        let _driver = tokio::spawn(driver.run());
        let replies = vec![busy(), Reply::Done, Reply::Done, armed(), Reply::Done, busy(), Reply::Done, busy()];
        let played = tokio::spawn(answer(guardian, replies));
        let (captures, op) = (captures(&broker), ArmingOp::Arm(pod(), 80, ListenerGate::AppListening));
        let outcome = perform(&broker, &captures, &op, FirstHand::App).await;
        // The guardian has given no listeners with it, so nothing may be steered.
        let ArmingOutcome::Failed { reason, .. } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("listeners"), "{reason}");
        // Another port is armed there: it is tried again, and soon.
        let outcome = perform(&broker, &captures, &op, FirstHand::App).await;
        let ArmingOutcome::Failed { retry, reason } = outcome else { panic!("{outcome:?}") };
        assert!(retry < Duration::from_secs(1) && reason.contains("release"), "{reason}");
        let arm = Request::Arm { pod: pod(), port: 80 };
        let (disarm, release) = (Request::Disarm { pod: pod(), port: 80 }, Request::Release { pod: pod() });
        let expected = [&arm, &disarm, &release, &arm, &disarm, &arm, &disarm, &release];
        assert_eq!(played.await.expect("played").iter().collect::<Vec<_>>(), expected);
    }
}
