//! Messages to the agent.

use super::filter::{filter, filter_to_proto};
use super::{port, selector, selector_to_proto, text, token};
use crate::error::Malformed;
use crate::message::{EarlierConnections, Hello, Probes, ToAgent, Which, Wish};
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
            proto::ToAgentBody::Intercept(wish) => Self::Intercept(wish.try_into()?),
            proto::ToAgentBody::Leave(leave) => Self::Leave(which(leave)?),
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
            ToAgent::Intercept(wish) => Self::Intercept(proto::Wish {
                token: wish.token.0.to_vec(),
                selector: Some(selector_to_proto(&wish.selector)),
                port: u32::from(wish.port),
                filter: wish.filter.as_ref().map(filter_to_proto),
                to: wish.to.clone(),
                probes_to_developer: matches!(wish.probes, Probes::Developer),
                flush: matches!(wish.earlier, EarlierConnections::Close),
                even_if_down: wish.even_if_down,
                forwarded: wish.forwarded,
            }),
            ToAgent::Leave(which) => Self::Leave(proto::Leave { kind: Some(which_to_proto(which)) }),
            ToAgent::List => Self::List(proto::Empty {}),
            ToAgent::Status => Self::Status(proto::Empty {}),
            ToAgent::Ping(number) => Self::Ping(*number),
        }
    }
}

impl TryFrom<proto::Wish> for Wish {
    type Error = Malformed;

    fn try_from(wish: proto::Wish) -> Result<Self, Malformed> {
        Ok(Self {
            token: token(&wish.token)?,
            selector: selector(wish.selector)?,
            port: port(wish.port)?,
            filter: wish.filter.map(filter).transpose()?,
            to: text(wish.to, "the developer's address", limits::NAME)?,
            probes: if wish.probes_to_developer { Probes::Developer } else { Probes::App },
            earlier: if wish.flush { EarlierConnections::Close } else { EarlierConnections::Stay },
            even_if_down: wish.even_if_down,
            forwarded: wish.forwarded,
        })
    }
}

fn which(leave: proto::Leave) -> Result<Which, Malformed> {
    Ok(match leave.kind.ok_or(Malformed::Missing("which intercept to leave"))? {
        proto::WhichKind::Token(bytes) => Which::Token(token(&bytes)?),
        proto::WhichKind::Id(id) => Which::Id(id),
        proto::WhichKind::Selector(which) => {
            let any = which.port == 0;
            Which::Selector(selector(which.selector)?, if any { None } else { Some(port(which.port)?) })
        }
        proto::WhichKind::All(_) => Which::All,
    })
}

fn which_to_proto(which: &Which) -> proto::WhichKind {
    match which {
        Which::Token(token) => proto::WhichKind::Token(token.0.to_vec()),
        Which::Id(id) => proto::WhichKind::Id(*id),
        Which::Selector(selector, port) => proto::WhichKind::Selector(proto::WhichSelector {
            selector: Some(selector_to_proto(selector)),
            port: port.map_or(0, u32::from),
        }),
        Which::All => proto::WhichKind::All(proto::Empty {}),
    }
}
