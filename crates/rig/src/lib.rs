//! redir-rig
