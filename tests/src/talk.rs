//! Conversations on one client connection, word by word: the client, the app and three developers' services are raw
//! sockets, and what one of them hears is compared byte for byte with what another one said.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
};

use anyhow::{Context, Result, bail, ensure};
use redir_rig::{Cli, Listener, cli::Home, listener::reset, topology::Family, wait};

use crate::{LOCAL, PORT, SOON, World};

/// Who takes part. A request is a developer's if it has their `x-user`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The client behind the gateway.
    Client,
    /// The app in the pod.
    App,
    /// The service of `x-user: alice`.
    Alice,
    /// The service of `x-user: bob`.
    Bob,
    /// The service of `x-user: carol`.
    Carol,
}

/// Those who answer.
pub const ORIGINS: [Who; 4] = [Who::App, Who::Alice, Who::Bob, Who::Carol];

impl Who {
    /// The `x-user` whose requests are theirs.
    pub fn user(self) -> &'static str {
        match self {
            Self::Client | Self::App => "nobody",
            Self::Alice => "alice",
            Self::Bob => "bob",
            Self::Carol => "carol",
        }
    }
}

/// What one of them does.
#[derive(Clone, PartialEq, Eq)]
pub enum What {
    /// Sends these bytes.
    Says(Vec<u8>),
    /// Receives exactly these bytes.
    Hears(Vec<u8>),
    /// Sends a FIN and still listens.
    Finishes,
    /// Receives a FIN, with nothing before it.
    HearsEnd,
    /// Closes its socket.
    Closes,
    /// Closes its socket with a reset.
    Resets,
    /// Receives a reset, with nothing before it.
    HearsReset,
    /// Has nothing to read at this moment.
    HearsNothing,
}

/// One step of a conversation.
pub type Step = (Who, What);

/// See [`What::Says`].
pub fn says(who: Who, bytes: impl AsRef<[u8]>) -> Step {
    (who, What::Says(bytes.as_ref().to_vec()))
}

/// See [`What::Hears`].
pub fn hears(who: Who, bytes: impl AsRef<[u8]>) -> Step {
    (who, What::Hears(bytes.as_ref().to_vec()))
}

/// A request that `origin` gets, and its answer.
pub fn exchange(origin: Who, request: impl AsRef<[u8]>, answer: impl AsRef<[u8]>) -> Vec<Step> {
    [passes(Who::Client, origin, request), passes(origin, Who::Client, answer)].concat()
}

/// Bytes that one says and the other hears.
pub fn passes(from: Who, to: Who, bytes: impl AsRef<[u8]>) -> Vec<Step> {
    vec![says(from, &bytes), hears(to, &bytes)]
}

impl fmt::Debug for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Says(bytes) => write!(f, "says {}", shown(bytes)),
            Self::Hears(bytes) => write!(f, "hears {}", shown(bytes)),
            Self::Finishes => f.write_str("finishes"),
            Self::HearsEnd => f.write_str("hears the end"),
            Self::Closes => f.write_str("closes"),
            Self::Resets => f.write_str("resets"),
            Self::HearsReset => f.write_str("hears a reset"),
            Self::HearsNothing => f.write_str("hears nothing"),
        }
    }
}

fn shown(bytes: &[u8]) -> String {
    const SHOWN: usize = 400;
    let more = if bytes.len() > SHOWN { format!("… ({} bytes)", bytes.len()) } else { String::new() };
    format!("{}{more}", bytes[..bytes.len().min(SHOWN)].escape_ascii())
}

/// The listeners of all origins, with three live intercepts of the first pod.
#[derive(Debug)]
pub struct Stage<'w> {
    world: &'w World,
    listeners: Vec<(Who, Listener)>,
    intercepts: Vec<Cli>,
    _carol: Home,
}

impl<'w> Stage<'w> {
    /// Lets carol in and starts everything.
    pub fn new(world: &'w World) -> Result<Self> {
        let carol = Home::new()?;
        let mut config = world.config.clone();
        config.developers.push(carol.developer("carol", "{ app = \"web\" }"));
        world.agent.rewrite(&config.text(&world.agent.key())?)?;
        wait::until_true("carol to be let in", SOON, || Ok(world.redir(&carol, &["list"])?.0 == 0))?;
        let local = |port| Listener::new(&world.topology.developer.namespace, ([127, 0, 0, 1], port).into());
        let app = Listener::new(&world.pod().namespace, (Family::V4.any(), PORT).into())?;
        let mut stage = Self { world, listeners: vec![(Who::App, app)], intercepts: vec![], _carol: carol };
        for (who, port) in [(Who::Alice, LOCAL), (Who::Bob, LOCAL + 1), (Who::Carol, LOCAL + 2)] {
            let home = match who {
                Who::Alice => &world.alice,
                Who::Bob => &world.bob,
                _ => &stage._carol,
            };
            let user = format!("x-user: {}", who.user());
            stage.intercepts.push(world.intercept_early(home, port, &["--header", &user])?);
            stage.listeners.push((who, local(port)?));
        }
        Ok(stage)
    }

    /// Opens a connection.
    pub fn talk(&self) -> Result<Talk<'_>> {
        let client = self.world.connect(self.world.client(), Family::V4)?;
        let mut talk = Talk { stage: self, ends: vec![(Who::Client, client)], piece: usize::MAX, over: false };
        talk.end_of(Who::App)?;
        Ok(talk)
    }

    /// Plays conversations, each on a connection of its own: as a whole, and byte by byte.
    pub fn play<N: AsRef<str>>(&self, conversations: impl IntoIterator<Item = (N, Vec<Step>)>) -> Result<()> {
        for (name, steps) in conversations {
            for piece in [usize::MAX, 1] {
                self.play_by(piece, name.as_ref(), &steps)?;
            }
        }
        Ok(())
    }

    /// Plays one conversation in pieces of this size, and looks whether anything is left over on any side.
    pub fn play_by(&self, piece: usize, name: &str, steps: &[Step]) -> Result<()> {
        let size = if piece == usize::MAX { "whole".to_owned() } else { format!("in pieces of {piece}") };
        let mut talk = Talk { piece, ..self.talk()? };
        for (number, step) in steps.iter().enumerate() {
            talk.step(step).with_context(|| format!("{name}, {size}, step {number}: {step:?}"))?;
        }
        talk.end().with_context(|| format!("{name}, {size}, at the end"))
    }

    /// The next connection to a listener.
    pub fn accept(&self, who: Who) -> Result<TcpStream> {
        let (_, listener) = self.listeners.iter().find(|(other, _)| *other == who).context("no origin")?;
        loop {
            let (socket, peer) = listener.accept().with_context(|| format!("a connection to {who:?}"))?;
            // The agent's own look at the app comes from the pod.
            if who != Who::App || peer.ip() == self.world.client().ip(Family::V4) {
                return Ok(socket);
            }
        }
    }
}

/// One client connection and the legs that were opened for it.
#[derive(Debug)]
pub struct Talk<'s> {
    stage: &'s Stage<'s>,
    ends: Vec<(Who, TcpStream)>,
    /// How many bytes are written at once.
    piece: usize,
    /// Somebody closed or reset: there is nothing to look at in the end.
    over: bool,
}

impl Talk<'_> {
    /// The socket of one of them; a leg that was not met yet is accepted.
    pub fn end_of(&mut self, who: Who) -> Result<&mut TcpStream> {
        if !self.ends.iter().any(|(other, _)| *other == who) {
            self.ends.push((who, self.stage.accept(who)?));
        }
        Ok(&mut self.ends.iter_mut().find(|(other, _)| *other == who).context("just pushed")?.1)
    }

    /// Takes a socket out: its owner closes it.
    fn take(&mut self, who: Who) -> Result<TcpStream> {
        self.end_of(who)?;
        self.over = true;
        let at = self.ends.iter().position(|(other, _)| *other == who).context("just found")?;
        Ok(self.ends.remove(at).1)
    }

    /// Reads so many bytes.
    pub fn read(&mut self, who: Who, length: usize) -> Result<Vec<u8>> {
        crate::read_exactly(self.end_of(who)?, length)
    }

    /// Reads a line.
    pub fn line(&mut self, who: Who) -> Result<String> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            line.extend(self.read(who, 1)?);
        }
        Ok(String::from_utf8(line)?)
    }

    /// Does one step.
    pub fn step(&mut self, (who, what): &Step) -> Result<()> {
        let piece = self.piece;
        match what {
            What::Says(bytes) => {
                let socket = self.end_of(*who)?;
                bytes.chunks(piece).try_for_each(|piece| socket.write_all(piece)).context("write")
            }
            What::Hears(bytes) => hear(self.end_of(*who)?, bytes),
            What::Finishes => self.end_of(*who)?.shutdown(Shutdown::Write).context("shutdown"),
            What::HearsEnd => {
                self.over = true;
                silent_end(self.end_of(*who)?)
            }
            What::Closes => self.take(*who).map(drop),
            What::Resets => reset(self.take(*who)?),
            What::HearsReset => match self.take(*who)?.read(&mut [0; 64]) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
                other => bail!("{other:?} instead of a reset"),
            },
            What::HearsNothing => {
                let socket = self.end_of(*who)?;
                socket.set_nonblocking(true)?;
                let read = socket.read(&mut [0; 64]);
                socket.set_nonblocking(false)?;
                match read {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                    other => bail!("{other:?} instead of nothing"),
                }
            }
        }
    }

    /// The client is done: nobody has anything left to hear.
    fn end(mut self) -> Result<()> {
        if self.over {
            return Ok(());
        }
        self.end_of(Who::Client)?.shutdown(Shutdown::Write)?;
        let (client, mut legs): (Vec<_>, Vec<_>) = self.ends.drain(..).partition(|(who, _)| *who == Who::Client);
        for (who, leg) in &mut legs {
            silent_end(leg).with_context(|| format!("{who:?}"))?;
        }
        drop(legs);
        client.into_iter().try_for_each(|(_, mut client)| silent_end(&mut client).context("the client"))
    }
}

/// Reads exactly these bytes.
pub fn hear(socket: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut got = vec![0; expected.len()];
    let mut filled = 0;
    while filled < got.len() {
        match socket.read(&mut got[filled..]) {
            Ok(0) => bail!("ended after {}", shown(&got[..filled])),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => bail!("{error} after {}", shown(&got[..filled])),
        }
        if got[..filled] != expected[..filled] {
            let same = got.iter().zip(expected).take_while(|(got, expected)| got == expected).count();
            bail!("from byte {same} on: {}", shown(&got[same..filled]));
        }
    }
    Ok(())
}

fn silent_end(socket: &mut TcpStream) -> Result<()> {
    let mut rest = Vec::new();
    socket.read_to_end(&mut rest).context("read to the end")?;
    ensure!(rest.is_empty(), "{} instead of the end", shown(&rest));
    Ok(())
}
