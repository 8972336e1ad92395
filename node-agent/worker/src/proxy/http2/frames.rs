//! The frames of one direction, told apart by their heads while their bytes go by.
//!
//! Owns: where the next head begins. Must not: look into a payload (except that of SETTINGS), judge a frame, or keep more
//! than a part of a head. Called by `wire`.
//!
//! It also takes frames out that carry nothing, where its watcher says so: empty DATA, since the h2 crate ends a connection
//! after a hundred of them in all, and some servers begin or flush every answer with one; and the acknowledgement of
//! SETTINGS that the h2 crate believes acknowledged (`upgrade`).

use bytes::BufMut;

use super::held::HeldBlock;

/// A frame's head: length, type, flags, stream (RFC 9113, 4.1).
pub(super) const HEAD: usize = 9;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
#[cfg(test)]
pub(super) const PRIORITY: u8 = 2;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
#[cfg(test)]
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// One frame's head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: usize,
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) fn parse(head: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = head;
        let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        // The highest bit means nothing.
        Head { len, kind, flags, stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]) }
    }

    /// DATA without a byte that does not end its stream: it says nothing.
    pub(super) fn is_idle_data(&self) -> bool {
        self.kind == DATA && self.len == 0 && self.flags & END_STREAM == 0
    }

    /// HEADERS or CONTINUATION that others must follow.
    pub(super) fn is_continued(&self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION) && self.flags & END_HEADERS == 0
    }

    /// SETTINGS that acknowledge ours.
    pub(super) fn is_settings_ack(&self) -> bool {
        self.kind == SETTINGS && self.is_ack()
    }

    /// Nothing is lost without it, for one reason or another.
    fn may_be_dropped(&self) -> bool {
        self.is_idle_data() || (self.is_settings_ack() && self.len == 0)
    }

    /// SETTINGS or PING that answer ours.
    pub(super) fn is_ack(&self) -> bool {
        matches!(self.kind, SETTINGS | PING) && self.flags & ACK != 0
    }
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    /// It belongs to a header block that is not given to the reader before it is whole.
    Hold,
    /// Only for empty DATA that does not end its stream, and for an acknowledgement of SETTINGS.
    Drop,
}

/// Sees each frame.
pub(super) trait Watch {
    /// A frame begins.
    fn frame(&mut self, head: &Head) -> Fate;

    /// A part of the payload of a SETTINGS frame.
    fn settings(&mut self, payload: &[u8]);

    /// A frame could not be held, for want of memory.
    fn not_held(&mut self) {}
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Frames {
    head: [u8; HEAD],
    /// How much of `head` is there.
    have: usize,
    /// How much of it is already with the reader.
    given: usize,
    /// What is left of the current frame's payload.
    left: usize,
    settings: bool,
    /// The current frame is the last of a block that is held.
    ends_held: bool,
    held: HeldBlock,
    /// Frames and bytes since the reader has set it to nothing.
    pub(super) seen: Seen,
}

/// What went by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) frames: usize,
    pub(super) bytes: usize,
    /// Of header blocks, as long as their frames say.
    pub(super) blocks: usize,
}

impl Frames {
    /// The part of a head that the reader has not got: it belongs in front of the bytes that are read next.
    pub(super) fn withheld(&self) -> &[u8] {
        &self.head[self.given..self.have]
    }

    /// The withheld bytes go to the reader as they are: there was no room for more.
    pub(super) fn give(&mut self, count: usize) {
        self.given += count;
    }

    /// Gives the reader what was held and may be taken; how much that was.
    pub(super) fn give_held(&mut self, room: usize, to: &mut impl BufMut) -> usize {
        self.held.give(room, to)
    }

    /// Walks over `bytes`, which begin with what was withheld, and closes the gaps of what is taken out. The first
    /// bytes of the answered number are the reader's; an unfinished head behind them is withheld.
    pub(super) fn pass(&mut self, bytes: &mut [u8], watch: &mut impl Watch) -> usize {
        self.seen.bytes += bytes.len() - self.withheld().len();
        self.have = self.given;
        let (mut kept, mut at) = (0, 0);
        while at < bytes.len() {
            if self.left > 0 {
                let len = self.left.min(bytes.len() - at);
                if self.settings {
                    watch.settings(&bytes[at..at + len]);
                }
                if self.held.is_active() {
                    self.held.push(&bytes[at..at + len]);
                } else {
                    bytes.copy_within(at..at + len, kept);
                    kept += len;
                }
                (at, self.left) = (at + len, self.left - len);
                self.end_held();
                continue;
            }
            let len = (HEAD - self.have).min(bytes.len() - at);
            self.head[self.have..self.have + len].copy_from_slice(&bytes[at..at + len]);
            (self.have, at) = (self.have + len, at + len);
            if self.have < HEAD {
                break;
            }
            kept += self.begin(&mut bytes[kept..at], watch);
        }
        kept
    }

    /// A head is whole: writes what of it the reader has not got; how much that is.
    fn begin(&mut self, to: &mut [u8], watch: &mut impl Watch) -> usize {
        let head = Head::parse(self.head);
        self.seen.frames += 1;
        if matches!(head.kind, HEADERS | CONTINUATION) {
            self.seen.blocks += head.len;
        }
        let fate = watch.frame(&head);
        let given = self.given;
        let dropped = fate == Fate::Drop && head.may_be_dropped() && given == 0;
        self.hold(fate, &head, watch);
        (self.have, self.given) = (0, 0);
        (self.left, self.settings) = (head.len, head.kind == SETTINGS);
        if dropped {
            return 0;
        }
        if self.held.is_active() {
            self.held.push(&self.head[given..]);
            self.end_held();
            return 0;
        }
        to[..HEAD - given].copy_from_slice(&self.head[given..]);
        HEAD - given
    }

    /// Whether the frame is held that begins. One whose head is with the reader in part is not.
    fn hold(&mut self, fate: Fate, head: &Head, watch: &mut impl Watch) {
        if fate != Fate::Hold {
            // Inside a block it breaks the protocol, which is for the reader to see.
            return self.held.release();
        }
        let possible = self.given == 0 && self.held.hold(HEAD + head.len);
        self.ends_held = possible && !head.is_continued();
        if !possible {
            watch.not_held();
        }
    }

    /// The last frame of a block that was held is whole.
    fn end_held(&mut self) {
        if self.left == 0 && self.ends_held {
            self.ends_held = false;
            self.held.release();
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    pub(in super::super) use redir_rig::http2::frame;

    use super::*;

    #[derive(Default)]
    struct Noted {
        frames: Vec<(u8, usize, u32)>,
        settings: Vec<u8>,
        drops: bool,
    }

    impl Watch for Noted {
        fn frame(&mut self, head: &Head) -> Fate {
            self.frames.push((head.kind, head.len, head.stream));
            if self.drops && head.is_idle_data() { Fate::Drop } else { Fate::Keep }
        }

        fn settings(&mut self, payload: &[u8]) {
            self.settings.extend_from_slice(payload);
        }
    }

    /// Reads `wire` in pieces of `read` bytes into a buffer of `room`, as `wire` does it.
    fn read(wire: &[u8], read: usize, room: usize, watch: &mut Noted) -> Vec<u8> {
        let (mut frames, mut got, mut rest) = (Frames::default(), Vec::new(), wire);
        while !rest.is_empty() {
            let withheld = frames.withheld().to_vec();
            if withheld.len() >= room {
                frames.give(room);
                got.extend_from_slice(&withheld[..room]);
                continue;
            }
            let len = read.min(room - withheld.len()).min(rest.len());
            let mut bytes = [&withheld[..], &rest[..len]].concat();
            rest = &rest[len..];
            let kept = frames.pass(&mut bytes, watch);
            got.extend_from_slice(&bytes[..kept]);
        }
        got
    }

    fn some_frames(idle: &[u8]) -> Vec<u8> {
        let big = vec![7; 20_000];
        [
            idle,
            &frame(SETTINGS, 0, 0, &[1; 12]),
            idle,
            idle,
            &frame(HEADERS, 4, 1, b"block"),
            &frame(DATA, 0, 0x8000_0001, &big),
            idle,
            &frame(DATA, END_STREAM, 1, b""),
            &frame(0xfa, 0, 3, b"unknown"),
            idle,
        ]
        .concat()
    }

    #[test]
    fn frames_are_told_apart_however_they_arrive() {
        let idle = frame(DATA, 0, 5, b"");
        let (wire, expected) = (some_frames(&idle), some_frames(b""));
        for drops in [false, true] {
            for (pieces, room) in [(1, 100), (2, 100), (9, 9), (7, 4096), (8192, 8192), (50_000, 50_000)] {
                let mut noted = Noted { drops, ..Noted::default() };
                let got = read(&wire, pieces, room, &mut noted);
                assert!(got == if drops { &expected[..] } else { &wire }, "{pieces} {room} {drops}");
                assert_eq!(noted.settings, [1; 12]);
                assert_eq!(noted.frames.len(), 10);
                assert_eq!(noted.frames[5..8], [(DATA, 20_000, 1), (DATA, 0, 5), (DATA, 0, 1)]);
            }
        }
    }

    #[test]
    fn without_room_for_a_head_nothing_is_lost() {
        let idle = frame(DATA, 0, 5, b"");
        let wire = some_frames(&idle);
        for room in 1..9 {
            let mut noted = Noted { drops: true, ..Noted::default() };
            let got = read(&wire, 3, room, &mut noted);
            // Heads that were given in parts stay; nothing else is lost or doubled.
            let mut again = Noted::default();
            read(&got, 5000, 10_000, &mut again);
            let without_idle = |frames: &[(u8, usize, u32)]| {
                frames.iter().copied().filter(|frame| *frame != (DATA, 0, 5)).collect::<Vec<_>>()
            };
            assert_eq!(without_idle(&again.frames), without_idle(&noted.frames), "{room}");
        }
    }

    #[test]
    fn what_went_by_is_counted_once() {
        let wire = some_frames(b"");
        let mut frames = Frames::default();
        let mut noted = Noted::default();
        let mut rest = &wire[..];
        while !rest.is_empty() {
            let mut bytes = [frames.withheld(), &rest[..rest.len().min(5)]].concat();
            rest = &rest[rest.len().min(5)..];
            frames.pass(&mut bytes, &mut noted);
        }
        assert_eq!(frames.seen, Seen { frames: 5, bytes: wire.len(), blocks: b"block".len() });
    }
}
