//! Where one client connection came from, what its port does now, and how its legs are opened.

use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
};

use redir_config::PodName;
use redir_http::{
    engine::Origin,
    filter::{Key, Table},
};
use redir_wire::ClientTls;

use super::{
    developer_stream::DeveloperStream,
    forwarded::Forwarded,
    leg::{Leg, LegError, Socket},
    secured::Secured,
    transport::Transport,
};
#[cfg(test)]
use crate::tls::GivenFor;
use crate::{
    misses::{Cause, Misses},
    plan::{Intercept, Plan, Plans},
    tls::{Finding, Given, Tls},
    tunnel_handle::OpenError,
    upstream::{AppLeg, Upstream, UpstreamError},
};
#[cfg(test)]
use redir_config::certificates::Certificates;

/// How the app is reached.
#[derive(Clone)]
pub(super) enum AppDialer {
    /// In its pod, with the client's address.
    Reflected(Upstream),
    /// On a socket of the test's.
    #[cfg(test)]
    Direct(SocketAddr),
}

impl AppDialer {
    async fn connect(self, client: SocketAddr, destination: SocketAddr) -> Result<AppLeg, UpstreamError> {
        match self {
            AppDialer::Reflected(upstream) => upstream.connect(client, destination).await,
            #[cfg(test)]
            AppDialer::Direct(app) => {
                tokio::net::TcpStream::connect(app).await.map(AppLeg::unheld).map_err(|_| UpstreamError::Refused)
            }
        }
    }
}

/// What is known of a connection from its beginning.
pub(super) struct Route {
    /// What ports do now.
    pub(super) plans: Plans,
    /// The pod.
    pub(super) pod: PodName,
    /// The client.
    pub(super) client: SocketAddr,
    /// The pod's address and the app's port, as the client dialled them.
    pub(super) destination: SocketAddr,
    /// Opens legs to the app.
    pub(super) app: AppDialer,
    /// What is known of TLS.
    pub(super) tls: Tls,
    /// Which connections are not read, and why.
    pub(super) misses: Misses,
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

    /// Notes why the connection is not read.
    pub(super) fn missed(&self, cause: Cause) {
        self.misses.saw(&self.pod, self.destination.port(), cause);
    }

    /// The client's address, for requests that are to tell it.
    pub(super) fn forwarded(&self) -> Forwarded {
        Forwarded::new(self.client, self.is_decrypted())
    }

    /// Where nothing is intercepted and the app is connected already.
    #[cfg(test)]
    pub(super) fn for_test(client: SocketAddr) -> Self {
        Route {
            plans: Plans::default(),
            pod: PodName::new("web-1").expect("a name"),
            client,
            destination: SocketAddr::from(([10, 0, 0, 1], 8080)),
            app: AppDialer::Direct(SocketAddr::from(([127, 0, 0, 1], 0))),
            tls: Tls::new(&Certificates::default(), GivenFor::Ports, true),
            misses: Misses::default(),
            secured: None,
        }
    }

    /// Connects to the app, through TLS where the connection is decrypted.
    pub(super) fn connect(&self) -> impl Future<Output = Result<Transport<AppLeg>, LegError>> + Send + use<> {
        let (app, client, destination) = (self.app.clone(), self.client, self.destination);
        let secured = self.secured.clone();
        async move {
            let leg = app.connect(client, destination).await.map_err(LegError::Upstream)?;
            match secured {
                None => Ok(Transport::plain(leg)),
                Some(secured) => secured.secure(leg).await,
            }
        }
    }

    /// What a developer is told of the client's TLS.
    fn client_tls(&self) -> Option<ClientTls> {
        self.secured.as_ref().map(|secured| secured.client.clone())
    }

    /// Begins to open the leg to the app.
    pub(super) fn app_leg(&self) -> Leg {
        let connecting = self.connect();
        Leg::new(Origin::App, Box::pin(async move { connecting.await.map(Socket::App) }))
    }

    /// Begins to open a leg to a developer.
    pub(super) fn developer_leg(&self, intercept: &Arc<Intercept>) -> Leg {
        let opening = self.open_stream(intercept);
        let opening = async move { opening.await.map(Socket::Developer).map_err(LegError::Unopened) };
        Leg::new(origin(intercept), Box::pin(opening))
    }

    /// Opens a stream to a developer.
    pub(super) fn open_stream(
        &self,
        intercept: &Arc<Intercept>,
    ) -> impl Future<Output = Result<DeveloperStream, OpenError>> + Send + use<> {
        let (client, destination, tls) = (self.client, self.destination, self.client_tls());
        let intercept = intercept.clone();
        async move { DeveloperStream::open(&intercept, client, destination, tls).await }
    }

    /// Whether the client's bytes were decrypted.
    pub(super) fn is_decrypted(&self) -> bool {
        self.secured.is_some()
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
