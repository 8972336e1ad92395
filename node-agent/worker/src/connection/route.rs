//! Where one client connection came from, what its port does now, and how its legs are opened.

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, LazyLock},
};

use redir_config::PodName;
use redir_http::{
    engine::Origin,
    filter::{Key, Table},
};
use redir_wire::ClientTls;

use super::{
    decrypt::Secured,
    leg::{Leg, LegError, Socket},
    transport::Transport,
};
#[cfg(test)]
use crate::tls::GivenFor;
use crate::{
    developer_leg::DeveloperLeg,
    forwarded::Forwarded,
    misses::{Cause, Misses},
    plan::{Intercept, Plan, Plans},
    tls::{Finding, Given, Tls},
    upstream::{AppLeg, UpstreamError},
};
#[cfg(test)]
use redir_config::certificates::Certificates;

/// The leg to the app, being opened.
pub(super) type Connecting = Pin<Box<dyn Future<Output = Result<AppLeg, UpstreamError>> + Send>>;

/// What an exchange knows of its connection.
pub(crate) struct Route {
    /// What ports do now.
    pub(super) plans: Plans,
    /// The pod.
    pub(super) pod: PodName,
    /// The client.
    pub(crate) client: SocketAddr,
    /// The pod's address and the app's port, as the client dialled them.
    pub(crate) destination: SocketAddr,
    /// Opens the leg to the app.
    pub(super) connect: Box<dyn Fn() -> Connecting + Send + Sync>,
    /// What is known of TLS.
    pub(super) tls: Tls,
    /// Which connections are not read, and why.
    pub(super) misses: Misses,
    /// What was agreed, once the connection is decrypted.
    pub(super) secured: Option<Arc<Secured>>,
}

impl Route {
    /// What the port does now; `None`: everything goes to the app.
    pub(crate) fn plan(&self) -> Option<Arc<Plan>> {
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

    /// Notes why the connection is not read.
    pub(crate) fn missed(&self, cause: Cause) {
        self.misses.saw(&self.pod, self.destination.port(), cause);
    }

    /// The client's address, for requests that are to tell it.
    pub(crate) fn forwarded(&self) -> Forwarded {
        Forwarded::new(self.client, self.secured.is_some())
    }

    /// Where nothing is intercepted and the app is connected already.
    #[cfg(test)]
    pub(crate) fn for_test(client: SocketAddr) -> Self {
        let connect = || -> Connecting { Box::pin(async { Err(UpstreamError::Refused) }) };
        Route {
            plans: Plans::default(),
            pod: PodName::new("web-1").expect("a name"),
            client,
            destination: SocketAddr::from(([10, 0, 0, 1], 8080)),
            connect: Box::new(connect),
            tls: Tls::new(&Certificates::default(), GivenFor::Ports, true),
            misses: Misses::default(),
            secured: None,
        }
    }

    /// Connects to the app, through TLS where the connection is decrypted.
    pub(super) fn connect(&self) -> impl Future<Output = Result<Transport<AppLeg>, LegError>> + Send + use<> {
        let (connecting, secured) = ((self.connect)(), self.secured.clone());
        async move {
            let leg = connecting.await.map_err(LegError::Upstream)?;
            match secured {
                None => Ok(Transport::plain(leg)),
                Some(secured) => secured.secure(leg).await,
            }
        }
    }

    /// What a developer is told of the client's TLS.
    pub(crate) fn client_tls(&self) -> Option<ClientTls> {
        self.secured.as_ref().map(|secured| secured.client.clone())
    }

    /// Begins to open the leg to the app.
    pub(super) fn app(&self) -> Leg {
        let connecting = self.connect();
        Leg::new(Origin::App, Box::pin(async move { connecting.await.map(Socket::App) }))
    }

    /// Begins to open a leg to a developer.
    pub(super) fn developer(&self, intercept: &Arc<Intercept>) -> Leg {
        let (client, destination) = (self.client, self.destination);
        let tls = self.client_tls();
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
pub(super) fn table(plan: Option<&Plan>) -> &Table {
    // Some kilobytes, of which no connection needs its own.
    static EMPTY: LazyLock<Table> = LazyLock::new(Table::empty);
    plan.map_or(&EMPTY, |plan| &plan.table)
}
