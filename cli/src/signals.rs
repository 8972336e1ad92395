//! The signals that redir listens to while it intercepts.
//!
//! Owns: the difference between systems. Must not act on them. Called by: `commands::intercept`.

use std::io;

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// End: leave the intercept, then the command gets this.
    End(ForCommand),
    /// End without waiting for anything.
    EndAtOnce(ForCommand),
    /// Meant for the developer's command.
    #[cfg_attr(windows, expect(dead_code, reason = "Windows has no signals to hand on"))]
    Forward(ForCommand),
}

pub(crate) use system::{ForCommand, Signals};

#[cfg(unix)]
mod system {
    use nix::sys::signal::Signal;
    use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

    use super::{Arrived, io};

    /// A signal for the developer's command.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct ForCommand(pub(crate) Signal);

    impl ForCommand {
        /// Please end.
        pub(crate) const TERM: Self = Self(Signal::SIGTERM);
    }

    /// The listeners; signals are handled from their making on.
    pub(crate) struct Signals {
        interrupt: Stream,
        terminate: Stream,
        hangup: Stream,
        quit: Stream,
        user1: Stream,
        user2: Stream,
    }

    impl Signals {
        /// Begins to listen.
        pub(crate) fn listen() -> io::Result<Self> {
            Ok(Self {
                interrupt: signal(SignalKind::interrupt())?,
                terminate: signal(SignalKind::terminate())?,
                hangup: signal(SignalKind::hangup())?,
                quit: signal(SignalKind::quit())?,
                user1: signal(SignalKind::user_defined1())?,
                user2: signal(SignalKind::user_defined2())?,
            })
        }

        /// Waits for the next one. Cancel-safe.
        pub(crate) async fn next(&mut self) -> Arrived {
            tokio::select! {
                Some(()) = self.interrupt.recv() => Arrived::End(ForCommand(Signal::SIGINT)),
                Some(()) = self.terminate.recv() => Arrived::End(ForCommand::TERM),
                Some(()) = self.hangup.recv() => Arrived::End(ForCommand(Signal::SIGHUP)),
                Some(()) = self.quit.recv() => Arrived::EndAtOnce(ForCommand(Signal::SIGQUIT)),
                Some(()) = self.user1.recv() => Arrived::Forward(ForCommand(Signal::SIGUSR1)),
                Some(()) = self.user2.recv() => Arrived::Forward(ForCommand(Signal::SIGUSR2)),
                else => std::future::pending().await,
            }
        }
    }
}

#[cfg(windows)]
mod system {
    use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

    use super::{Arrived, io};

    /// Windows has no signals to hand on.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct ForCommand;

    impl ForCommand {
        /// Please end.
        pub(crate) const TERM: Self = Self;
    }

    /// The listeners.
    pub(crate) struct Signals {
        interrupt: CtrlC,
        abort: CtrlBreak,
        close: CtrlClose,
    }

    impl Signals {
        /// Begins to listen.
        pub(crate) fn listen() -> io::Result<Self> {
            Ok(Self { interrupt: ctrl_c()?, abort: ctrl_break()?, close: ctrl_close()? })
        }

        /// Waits for the next one. Cancel-safe.
        pub(crate) async fn next(&mut self) -> Arrived {
            tokio::select! {
                Some(()) = self.interrupt.recv() => Arrived::End(ForCommand),
                Some(()) = self.close.recv() => Arrived::End(ForCommand),
                Some(()) = self.abort.recv() => Arrived::EndAtOnce(ForCommand),
                else => std::future::pending().await,
            }
        }
    }
}
