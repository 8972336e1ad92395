//! Frames of the control stream: a big-endian `u32` length, then one protobuf message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

use crate::error::Malformed;
use crate::limits;

/// Collects bytes and cuts them into frames.
#[derive(Debug, Default)]
pub struct Frames {
    unread: BytesMut,
}

impl Frames {
    /// Appends bytes as they came. A length over the limit is told by [`Frames::next_frame`] before its bytes are kept.
    pub fn push(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
    }

    /// The next whole frame, without its length; `None` until more bytes come.
    pub fn next_frame(&mut self) -> Result<Option<Bytes>, Malformed> {
        let Some(prefix) = self.unread.first_chunk::<LENGTH>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*prefix)).unwrap_or(usize::MAX);
        if length > limits::FRAME {
            return Err(Malformed::TooLong { what: "a control message", limit: limits::FRAME });
        }
        if self.unread.len() < LENGTH + length {
            return Ok(None);
        }
        self.unread.advance(LENGTH);
        Ok(Some(self.unread.split_to(length).freeze()))
    }

    /// Whether a frame has begun and is not whole.
    pub fn is_midway(&self) -> bool {
        self.unread() > 0
    }

    /// Bytes that came and make no whole frame yet, or were not asked for.
    pub fn unread(&self) -> usize {
        self.unread.len()
    }
}

/// Appends one message as a frame; one over the limit leaves `out` as it was.
pub(crate) fn put_frame(message: &impl Message, out: &mut BytesMut) -> Result<(), Malformed> {
    let length = message.encoded_len();
    match u32::try_from(length) {
        Ok(prefix) if length <= limits::FRAME => out.put_u32(prefix),
        _ => return Err(Malformed::TooLong { what: "a control message", limit: limits::FRAME }),
    }
    message.encode_raw(out);
    Ok(())
}

/// Bytes of the length.
const LENGTH: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_at_every_split() {
        let stream = [&[0, 0, 0, 3][..], b"abc", &[0, 0, 0, 0], &[0, 0, 0, 1], b"z"].concat();
        for split in 0..=stream.len() {
            let mut frames = Frames::default();
            let mut seen = Vec::new();
            for part in [&stream[..split], &stream[split..]] {
                frames.push(part);
                while let Some(frame) = frames.next_frame().unwrap() {
                    seen.push(frame);
                }
            }
            assert_eq!(seen, [&b"abc"[..], b"", b"z"], "split at {split}");
            assert!(!frames.is_midway());
        }
    }

    #[test]
    fn a_long_frame_is_refused_by_its_length() {
        let mut frames = Frames::default();
        frames.push(&[0, 0x10, 0, 1]);
        assert!(matches!(frames.next_frame(), Err(Malformed::TooLong { .. })));
        let mut frames = Frames::default();
        frames.push(&[0xff; 4]);
        assert!(matches!(frames.next_frame(), Err(Malformed::TooLong { .. })));
    }
}
