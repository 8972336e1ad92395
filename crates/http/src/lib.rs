//! redir-http
