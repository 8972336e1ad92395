//! A certificate is given for the port: whether the client speaks TLS is seen before anything else.

use std::sync::Arc;

use redir_http::engine::Origin;

use super::{Action, ConnectionState, Context};
use crate::{plan::Plan, tls::Given};

/// How each TLS connection begins: a handshake record, of any version.
pub(super) const TLS: &[u8] = &[0x16, 3];

/// Nothing has come from either side. The app's leg is being opened.
pub(in super::super) struct ExpectHello {
    given: Arc<Given>,
}

impl ExpectHello {
    /// With what can decrypt the connection.
    pub(in super::super) fn new(given: Arc<Given>) -> Self {
        ExpectHello { given }
    }

    fn not_tls(at: &Context<'_>) -> Action {
        let plan = at.route.plan();
        Action::begin_anew(plan.as_deref())
    }
}

impl ConnectionState for ExpectHello {
    fn client_bytes(&mut self, _: Option<&Plan>, at: &mut Context<'_>) -> Action {
        if at.flow.unread().first() == TLS.first() {
            return Action::Decrypt(self.given.clone());
        }
        Self::not_tls(at)
    }

    fn client_end(&mut self, at: &mut Context<'_>) -> Action {
        Self::not_tls(at)
    }

    /// The app speaks first.
    fn origin_bytes(&mut self, _: Origin, at: &mut Context<'_>) -> Action {
        Self::not_tls(at)
    }

    fn origin_end(&mut self, _: Origin, at: &mut Context<'_>) -> Action {
        Self::not_tls(at)
    }

    fn is_between_requests(&self) -> bool {
        true
    }
}
