//! redir-abi
