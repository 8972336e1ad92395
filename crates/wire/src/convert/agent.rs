//! Messages to the agent.

use super::filter::{filter, filter_to_proto};
use super::{port, selector, selector_to_proto, text, token};
use crate::error::Malformed;
use crate::message::{EarlierConnections, Hello, InterceptRequest, LeaveScope, Probes, ToAgent};
use crate::{limits, proto};

impl TryFrom<proto::ToAgentBody> for ToAgent {
    type Error = Malformed;

    fn try_from(body: proto::ToAgentBody) -> Result<Self, Malformed> {
        Ok(match body {
            proto::ToAgentBody::Hello(hello) => Self::Hello(Hello {
                version: hello.version,
                software: text(hello.software, "the software's name", limits::NAME)?,
                user: text(hello.user, "the user's name", limits::NAME)?,
            }),
            proto::ToAgentBody::Intercept(request) => Self::Intercept(request.try_into()?),
            proto::ToAgentBody::Leave(leave) => Self::Leave(leave_scope(leave)?),
            proto::ToAgentBody::List(_) => Self::List,
            proto::ToAgentBody::Status(_) => Self::Status,
            proto::ToAgentBody::Ping(number) => Self::Ping(number),
        })
    }
}

impl From<&ToAgent> for proto::ToAgentBody {
    fn from(message: &ToAgent) -> Self {
        match message {
            ToAgent::Hello(hello) => Self::Hello(proto::Hello {
                version: hello.version,
                software: hello.software.clone(),
                user: hello.user.clone(),
            }),
            ToAgent::Intercept(request) => Self::Intercept(proto::InterceptRequest {
                token: request.token.0.to_vec(),
                selector: Some(selector_to_proto(&request.selector)),
                port: u32::from(request.port),
                filter: request.filter.as_ref().map(filter_to_proto),
                to: request.to.clone(),
                probes_to_developer: matches!(request.probes, Probes::Developer),
                flush: matches!(request.earlier, EarlierConnections::Close),
                even_if_down: request.even_if_down,
                forwarded: request.forwarded,
            }),
            ToAgent::Leave(which) => Self::Leave(proto::Leave { kind: Some(leave_scope_to_proto(which)) }),
            ToAgent::List => Self::List(proto::Empty {}),
            ToAgent::Status => Self::Status(proto::Empty {}),
            ToAgent::Ping(number) => Self::Ping(*number),
        }
    }
}

impl TryFrom<proto::InterceptRequest> for InterceptRequest {
    type Error = Malformed;

    fn try_from(request: proto::InterceptRequest) -> Result<Self, Malformed> {
        Ok(Self {
            token: token(&request.token)?,
            selector: selector(request.selector)?,
            port: port(request.port)?,
            filter: request.filter.map(filter).transpose()?,
            to: text(request.to, "the developer's address", limits::NAME)?,
            probes: if request.probes_to_developer { Probes::Developer } else { Probes::App },
            earlier: if request.flush { EarlierConnections::Close } else { EarlierConnections::Stay },
            even_if_down: request.even_if_down,
            forwarded: request.forwarded,
        })
    }
}

fn leave_scope(leave: proto::Leave) -> Result<LeaveScope, Malformed> {
    Ok(match leave.kind.ok_or(Malformed::Missing("which intercept to leave"))? {
        proto::LeaveScopeKind::Token(bytes) => LeaveScope::Token(token(&bytes)?),
        proto::LeaveScopeKind::Id(id) => LeaveScope::Id(id),
        proto::LeaveScopeKind::Selector(which) => {
            let any = which.port == 0;
            LeaveScope::Selector(selector(which.selector)?, if any { None } else { Some(port(which.port)?) })
        }
        proto::LeaveScopeKind::All(_) => LeaveScope::All,
    })
}

fn leave_scope_to_proto(which: &LeaveScope) -> proto::LeaveScopeKind {
    match which {
        LeaveScope::Token(token) => proto::LeaveScopeKind::Token(token.0.to_vec()),
        LeaveScope::Id(id) => proto::LeaveScopeKind::Id(*id),
        LeaveScope::Selector(selector, port) => proto::LeaveScopeKind::Selector(proto::LeaveSelector {
            selector: Some(selector_to_proto(selector)),
            port: port.map_or(0, u32::from),
        }),
        LeaveScope::All => proto::LeaveScopeKind::All(proto::Empty {}),
    }
}
