//! What a box says of itself when somebody asks it to: one JSON document, compressed, in one message.

use serde::{Deserialize, Serialize};

use super::message::{UnpackError, unpack};

/// Bytes of a document.
pub const MAX_DIAGNOSIS_BYTES: usize = 2 * 1024 * 1024;
/// Bytes that it may take on the wire: with what is around it, it fits into a frame.
pub const MAX_PACKED_DIAGNOSIS_BYTES: usize = 256 * 1024;
/// zstd's own default: a document is made once, and is mostly words that repeat.
const ZSTD_LEVEL: i32 = 3;

/// A document, compressed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedDiagnosis {
    raw_bytes: u32,
    zstd: Vec<u8>,
}

/// Why a document cannot travel.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosisError {
    /// It is too large.
    #[error(
        "pack a diagnosis: it has {bytes} bytes, {packed} compressed; at most {MAX_DIAGNOSIS_BYTES} and \
         {MAX_PACKED_DIAGNOSIS_BYTES} are allowed"
    )]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The same, compressed.
        packed: usize,
    },
    /// Memory ran out.
    #[error("pack a diagnosis: {0}")]
    Zstd(#[from] std::io::Error),
}

impl PackedDiagnosis {
    /// Compresses a document, which is JSON.
    ///
    /// # Errors
    /// If it is too large.
    pub fn pack(text: &str) -> Result<Self, DiagnosisError> {
        let zstd = zstd::bulk::compress(text.as_bytes(), ZSTD_LEVEL)?;
        let (bytes, packed) = (text.len(), zstd.len());
        match u32::try_from(bytes) {
            Ok(raw_bytes) if bytes <= MAX_DIAGNOSIS_BYTES && packed <= MAX_PACKED_DIAGNOSIS_BYTES => {
                Ok(Self { raw_bytes, zstd })
            }
            Ok(_) | Err(_) => Err(DiagnosisError::TooLarge { bytes, packed }),
        }
    }

    /// The document. Its size is known before memory is taken for it.
    ///
    /// # Errors
    /// If it is too large or corrupt.
    pub fn unpack(&self) -> Result<Vec<u8>, UnpackError> {
        unpack(self.raw_bytes, MAX_DIAGNOSIS_BYTES, |bytes| zstd::bulk::decompress(&self.zstd, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_survives_packing_and_one_that_is_too_large_does_not_begin() {
        let document = format!("{{\"doctor\": \"{}\"}}", "x".repeat(10_000));
        let packed = PackedDiagnosis::pack(&document).expect("packs");
        assert!(packed.zstd.len() < 200);
        assert_eq!(packed.unpack().expect("unpacks"), document.as_bytes());
        let large = "x".repeat(MAX_DIAGNOSIS_BYTES + 1);
        assert!(matches!(PackedDiagnosis::pack(&large), Err(DiagnosisError::TooLarge { .. })));
    }

    #[test]
    fn a_bomb_is_refused_by_its_declared_size_and_by_its_real_one() {
        let bomb = zstd::bulk::compress(&vec![b'1'; 50_000_000], 1).expect("compresses");
        let packed = |raw_bytes| PackedDiagnosis { raw_bytes, zstd: bomb.clone() }.unpack();
        assert!(matches!(packed(50_000_000), Err(UnpackError::TooLarge { .. })));
        assert!(matches!(packed(1_000), Err(UnpackError::Corrupt { declared: 1_000 })));
    }
}
