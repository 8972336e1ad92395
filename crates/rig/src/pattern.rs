//! Bytes whose place in a stream can be checked: every block begins with its number, so that a lost, doubled or moved
//! piece is found wherever it happens. Compared as a whole, which is stricter than a checksum and fast in a debug build.

/// A prime, so that block borders fall anywhere in reads, segments and buffers.
const BLOCK: usize = 65_521;

/// The stream of checkable bytes.
#[derive(Debug, Clone)]
pub struct Pattern {
    block: Vec<u8>,
}

impl Default for Pattern {
    fn default() -> Self {
        // xorshift64, any fixed seed
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let block = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        })
        .flatten()
        .take(BLOCK)
        .collect();
        Self { block }
    }
}

impl Pattern {
    /// Fills `out` with the stream's bytes from `offset` on.
    pub fn fill(&mut self, offset: u64, out: &mut [u8]) {
        self.pieces(offset, out.len(), |piece, from, to| {
            out[from..to].copy_from_slice(piece);
            true
        });
    }

    /// Whether `bytes` are the stream's bytes from `offset` on.
    pub fn check(&mut self, offset: u64, bytes: &[u8]) -> bool {
        self.pieces(offset, bytes.len(), |piece, from, to| bytes[from..to] == *piece)
    }

    fn pieces(&mut self, mut offset: u64, length: usize, mut each: impl FnMut(&[u8], usize, usize) -> bool) -> bool {
        let mut done = 0;
        while done < length {
            let number = offset / BLOCK as u64;
            let start = usize::try_from(offset % BLOCK as u64).expect("less than a block");
            self.block[..8].copy_from_slice(&number.to_le_bytes());
            let n = (length - done).min(BLOCK - start);
            if !each(&self.block[start..start + n], done, done + n) {
                return false;
            }
            done += n;
            offset += n as u64;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_split_is_the_same_stream() {
        let mut whole = vec![0; 300_000];
        Pattern::default().fill(0, &mut whole);
        assert!(Pattern::default().check(70_000, &whole[70_000..]));
        let mut part = vec![0; 1000];
        Pattern::default().fill(65_500, &mut part);
        assert_eq!(part, whole[65_500..66_500]);
    }

    #[test]
    fn a_moved_block_is_found() {
        let mut bytes = vec![0; BLOCK];
        Pattern::default().fill(0, &mut bytes);
        assert!(!Pattern::default().check(BLOCK as u64, &bytes));
    }
}
