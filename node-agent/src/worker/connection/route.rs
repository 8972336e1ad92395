//! Where one client connection came from, what its port does now, and how its legs are opened.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc};

use redir_http::{
    engine::Origin,
    filter::{Key, Table},
};

use super::{
    decrypt::Secured,
    leg::{Leg, LegError, Socket},
    transport::Transport,
};
use crate::{
    config::PodName,
    worker::{
        developer_leg::DeveloperLeg,
        plan::{Intercept, Plan, Plans},
        tls::{Finding, Given, Tls},
        upstream::{AppLeg, UpstreamError},
    },
};

/// The leg to the app, being opened.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<AppLeg, UpstreamError>> + Send>>;

/// What an exchange knows of its connection.
pub(super) struct Route {
    /// What ports do now.
    pub(super) plans: Plans,
    /// The pod.
    pub(super) pod: PodName,
    /// The client.
    pub(super) client: SocketAddr,
    /// The pod's address and the app's port, as the client dialled them.
    pub(super) destination: SocketAddr,
    /// Opens the leg to the app.
    pub(super) connect: Box<dyn Fn() -> Connecting + Send + Sync>,
    /// What is known of TLS.
    pub(super) tls: Tls,
    /// What was agreed, once the connection is decrypted.
    pub(super) secured: Option<Arc<Secured>>,
}

impl Route {
    /// What the port does now; `None`: everything goes to the app.
    pub(super) fn plan(&self) -> Option<Arc<Plan>> {
        self.plans.plan(&self.pod, self.destination.port())
    }

    /// What can decrypt the connection, as long as it is not.
    pub(super) fn given(&self) -> Option<Arc<Given>> {
        if self.secured.is_some() {
            return None;
        }
        self.tls.given(&self.pod, self.destination.port())
    }

    /// Notes what the connection has shown of the port.
    pub(super) fn found(&self, finding: Finding) {
        self.tls.found(&self.pod, self.destination.port(), finding);
    }

    /// Begins to open the leg to the app.
    pub(super) fn app(&self) -> Leg {
        let (connecting, secured) = ((self.connect)(), self.secured.clone());
        let opening = async move {
            let leg = connecting.await.map_err(LegError::Upstream)?;
            Ok(Socket::App(match secured {
                None => Transport::plain(leg),
                Some(secured) => secured.secure(leg).await?,
            }))
        };
        Leg::new(Origin::App, Box::pin(opening))
    }

    /// Begins to open a leg to a developer.
    pub(super) fn developer(&self, intercept: &Arc<Intercept>) -> Leg {
        let (client, destination) = (self.client, self.destination);
        let tls = self.secured.as_ref().map(|secured| secured.client.clone());
        let opened = intercept.clone();
        let opening = async move {
            let leg = opened.open(client, destination, tls).await;
            leg.map(|leg| Socket::Developer(DeveloperLeg::new(leg))).map_err(LegError::Unopened)
        };
        Leg::new(origin(intercept), Box::pin(opening))
    }
}

/// The engine's name for an intercept's developer.
pub(super) fn origin(intercept: &Intercept) -> Origin {
    Origin::Developer(Key(intercept.id))
}

/// The table of a plan, or one that matches nothing.
pub(super) fn table<'a>(plan: Option<&'a Plan>, empty: &'a Table) -> &'a Table {
    plan.map_or(empty, |plan| &plan.table)
}
