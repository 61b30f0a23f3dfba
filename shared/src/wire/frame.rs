//! The frame: what every message travels in, and what any byte stream can be cut into.
//!
//! ```text
//! u32 length | u32 crc32c(body) | body          little-endian; length counts the body alone
//! ```

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::limits::MAX_FRAME_BYTES;

/// Bytes before the body.
pub const HEADER_BYTES: usize = 8;

/// Why bytes are not a frame. The connection they came from is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The declared length is above the limit; nothing of the body was read.
    #[error("frame declares {bytes} bytes, at most {MAX_FRAME_BYTES} are allowed")]
    TooLarge {
        /// The declared length.
        bytes: usize,
    },
    /// The body does not match its checksum.
    #[error("frame checksum is {found:08x}, its header says {declared:08x}")]
    Checksum {
        /// What the header says.
        declared: u32,
        /// What the body has.
        found: u32,
    },
    /// The body is not the expected message.
    #[error("frame body is malformed: {0}")]
    Malformed(#[from] postcard::Error),
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the body that follows, at most [`MAX_FRAME_BYTES`].
    pub length: usize,
    checksum: u32,
}

impl FrameHeader {
    /// Reads a header.
    ///
    /// # Errors
    /// If the declared length is above the limit.
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Result<Self, FrameError> {
        let [a, b, c, d, e, f, g, h] = bytes;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLarge { bytes: length });
        }
        Ok(Self { length, checksum: u32::from_le_bytes([e, f, g, h]) })
    }

    /// Checks the body against the header and reads the message in it.
    ///
    /// # Errors
    /// If the checksum differs or the body is not a message.
    pub fn open<M: DeserializeOwned>(self, body: &[u8]) -> Result<M, FrameError> {
        let found = crc32c::crc32c(body);
        if found != self.checksum {
            return Err(FrameError::Checksum { declared: self.checksum, found });
        }
        Ok(postcard::from_bytes(body)?)
    }
}

/// Writes `message` as one frame to the end of `out`.
///
/// # Errors
/// If the message is larger than a frame may be; `out` is then as before.
pub fn encode<M: Serialize>(message: &M, out: &mut Vec<u8>) -> Result<(), FrameError> {
    let body = postcard::to_allocvec(message)?;
    if body.len() > MAX_FRAME_BYTES {
        return Err(FrameError::TooLarge { bytes: body.len() });
    }
    out.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    out.extend_from_slice(&body);
    Ok(())
}

/// Cuts a byte stream, as it comes in, into messages.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    bytes: Vec<u8>,
    start: usize,
}

impl FrameDecoder {
    /// Takes the next bytes of the stream.
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next message, or `None` until more bytes came in. At most one frame and what came with it is held.
    ///
    /// # Errors
    /// If the stream is no sequence of frames of `M`; nothing more can be read from it then.
    pub fn take<M: DeserializeOwned>(&mut self) -> Result<Option<M>, FrameError> {
        let waiting = &self.bytes[self.start..];
        let Some(header) = waiting.first_chunk() else {
            return Ok(None);
        };
        let header = FrameHeader::decode(*header)?;
        let Some(body) = waiting.get(HEADER_BYTES..HEADER_BYTES + header.length) else {
            return Ok(None);
        };
        let message = header.open(body)?;
        self.start += HEADER_BYTES + header.length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::{EdgeToHub, HubToEdge};
    use proptest::prelude::*;

    fn split(frame: &[u8]) -> (FrameHeader, &[u8]) {
        let header = FrameHeader::decode(frame[..HEADER_BYTES].try_into().expect("8 bytes")).expect("header");
        (header, &frame[HEADER_BYTES..])
    }

    #[test]
    fn golden_bytes_of_a_frame() {
        let mut out = Vec::new();
        encode(&HubToEdge::Acked { epoch: crate::ids::Epoch(5), next: crate::ids::Sequence(300) }, &mut out)
            .expect("encodes");
        assert_eq!(out, [4, 0, 0, 0, 0x73, 0x1c, 0x50, 0x18, 1, 5, 0xac, 2]);
        let (header, body) = split(&out);
        assert_eq!(header.length, 4);
        assert!(matches!(header.open(body), Ok(HubToEdge::Acked { .. })));
    }

    #[test]
    fn a_flipped_bit_is_found() {
        let mut out = Vec::new();
        encode(&HubToEdge::Acked { epoch: crate::ids::Epoch(5), next: crate::ids::Sequence(300) }, &mut out)
            .expect("encodes");
        *out.last_mut().expect("not empty") ^= 4;
        let (header, body) = split(&out);
        assert!(matches!(header.open::<HubToEdge>(body), Err(FrameError::Checksum { .. })));
    }

    #[test]
    fn a_frame_that_declares_too_much_is_refused_before_its_body() {
        let error = FrameHeader::decode([0xff, 0xff, 0xff, 0x7f, 0, 0, 0, 0]).expect_err("too large");
        assert_eq!(error.to_string(), "frame declares 2147483647 bytes, at most 307200 are allowed");
    }

    #[test]
    fn a_stream_is_cut_into_messages_however_its_bytes_arrive() {
        let messages: Vec<HubToEdge> = (0..5)
            .map(|i| HubToEdge::Acked { epoch: crate::ids::Epoch(i), next: crate::ids::Sequence(1 << (7 * i)) })
            .collect();
        let mut stream = Vec::new();
        messages.iter().for_each(|message| encode(message, &mut stream).expect("encodes"));
        for step in [1, 3, 7, 64, stream.len()] {
            let mut decoder = FrameDecoder::default();
            let mut decoded = Vec::new();
            for bytes in stream.chunks(step) {
                decoder.extend(bytes);
                while let Some(message) = decoder.take::<HubToEdge>().expect("sound") {
                    decoded.push(message);
                }
            }
            assert_eq!(decoded, messages);
        }
    }

    proptest! {
        #[test]
        fn any_body_is_opened_or_refused(body in proptest::collection::vec(any::<u8>(), 0..300)) {
            let header = FrameHeader { length: body.len(), checksum: crc32c::crc32c(&body) };
            prop_assert!(matches!(header.open::<EdgeToHub>(&body), Ok(_) | Err(FrameError::Malformed(_))));
        }
    }
}
