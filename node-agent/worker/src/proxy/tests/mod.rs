//! A client connection over real sockets: a real app, a real tunnel, a developer's real service.

mod ends;
mod global;
mod http2;
mod http2_again;
mod leaving;
mod overtaken;
mod requests;
mod rig;
mod slow;
mod tls;
mod told;
mod undecided;
