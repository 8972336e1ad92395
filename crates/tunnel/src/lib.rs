//! redir-tunnel
