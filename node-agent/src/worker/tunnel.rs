//! The tunnels of the developers that are connected to this agent.
