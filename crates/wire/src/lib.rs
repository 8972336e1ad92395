//! redir-wire
