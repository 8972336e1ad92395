//! Which intercepts exist, which wins, and which ports are armed for them.
