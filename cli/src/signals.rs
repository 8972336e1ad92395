//! The signals that redir listens to while it intercepts.
//!
//! Owns: the difference between systems. Must not act on them. Called by: `commands::intercept`.

use std::io;

/// What arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalEvent {
    /// End: leave the intercept, then the command gets this.
    End(CommandSignal),
    /// End without waiting for anything.
    EndAtOnce(CommandSignal),
    /// Meant for the developer's command.
    #[cfg_attr(windows, expect(dead_code, reason = "Windows has no signals to hand on"))]
    Forward(CommandSignal),
}

pub(crate) use system::{CommandSignal, Signals};

#[cfg(unix)]
mod system {
    use nix::sys::signal::Signal;
    use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

    use super::{SignalEvent, io};

    /// A signal for the developer's command.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct CommandSignal(pub(crate) Signal);

    impl CommandSignal {
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
        pub(crate) async fn next(&mut self) -> SignalEvent {
            tokio::select! {
                Some(()) = self.interrupt.recv() => SignalEvent::End(CommandSignal(Signal::SIGINT)),
                Some(()) = self.terminate.recv() => SignalEvent::End(CommandSignal::TERM),
                Some(()) = self.hangup.recv() => SignalEvent::End(CommandSignal(Signal::SIGHUP)),
                Some(()) = self.quit.recv() => SignalEvent::EndAtOnce(CommandSignal(Signal::SIGQUIT)),
                Some(()) = self.user1.recv() => SignalEvent::Forward(CommandSignal(Signal::SIGUSR1)),
                Some(()) = self.user2.recv() => SignalEvent::Forward(CommandSignal(Signal::SIGUSR2)),
                else => std::future::pending().await,
            }
        }
    }
}

#[cfg(windows)]
mod system {
    use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

    use super::{SignalEvent, io};

    /// Windows has no signals to hand on.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(crate) struct CommandSignal;

    impl CommandSignal {
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
        pub(crate) async fn next(&mut self) -> SignalEvent {
            tokio::select! {
                Some(()) = self.interrupt.recv() => SignalEvent::End(CommandSignal),
                Some(()) = self.close.recv() => SignalEvent::End(CommandSignal),
                Some(()) = self.abort.recv() => SignalEvent::EndAtOnce(CommandSignal),
                else => std::future::pending().await,
            }
        }
    }
}
