//! The program file: a signed agent for boxes of one kind.
//!
//! ```text
//! "TIDP" | u16 format = 1 | u16 signatures | u32 header length | signatures | header | program, compressed with zstd
//! ```
//!
//! Little-endian. The header is postcard and says everything of the program, with the BLAKE3 hashes of what follows it. A signature is
//! of `"program\n"` and the header, as a [statement](ReleaseKey::sign_statement): 32 bytes of the key and 64 of what it signed.

use serde::{Deserialize, Serialize};

use crate::event::UnixMillis;
use crate::ids::Digest;
use crate::limits::{MAX_PROGRAM_BYTES, MAX_PROGRAM_FILE_BYTES};
use crate::package::signature::{PublicKey, ReleaseKey};

const MAGIC: [u8; 4] = *b"TIDP";
const FORMAT: u16 = 1;
const PREFIX_BYTES: usize = 12;
const SIGNATURE_BYTES: usize = 32 + 64;
/// Signatures of one program: as many as a package may have.
const MAX_SIGNATURES: usize = 8;
/// Bytes of a header: two short names and a few numbers.
const MAX_HEADER_BYTES: usize = 1024;
/// Bytes of a release's or a target's name.
const MAX_NAME_BYTES: usize = 64;
const STATEMENT: &[u8] = b"program\n";
/// zstd level: a tenth more bytes than the highest, in a tenth of the time.
const ZSTD_LEVEL: i32 = 12;

/// What a program says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramHeader {
    /// The release, for people: `0.2.0`.
    pub release: String,
    /// Grows from release to release; a box takes none below one that it kept.
    pub number: u64,
    /// The boxes that it is for: `aarch64-unknown-linux-musl`.
    pub target: String,
    /// When it was packed.
    pub created_ms: UnixMillis,
    /// Until when a box begins to use it.
    pub expires_ms: UnixMillis,
    /// Bytes of the program.
    pub bytes: u64,
    /// The hash of the program.
    pub program: Digest,
    /// The hash of what is compressed.
    pub packed: Digest,
}

/// What is not in the program's own bytes.
#[derive(Debug, Clone)]
pub struct ProgramFacts {
    /// As in [`ProgramHeader`].
    pub release: String,
    /// As in [`ProgramHeader`].
    pub number: u64,
    /// As in [`ProgramHeader`].
    pub target: String,
    /// As in [`ProgramHeader`].
    pub created_ms: UnixMillis,
    /// As in [`ProgramHeader`].
    pub expires_ms: UnixMillis,
}

/// Why bytes are not a program file, or not one to use.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It does not begin as one does.
    #[error("this is no program file: it does not begin with \"TIDP\"")]
    NotAProgram,
    /// It is of a format that this program does not know.
    #[error("program file has format {found}, this program reads format {FORMAT}")]
    Format {
        /// The file's format.
        found: u16,
    },
    /// It ends too early, or says more than there may be.
    #[error("program file is damaged: {0}")]
    Damaged(&'static str),
    /// A name in it is none.
    #[error("{what} {name:?} must have 1 to {MAX_NAME_BYTES} characters: letters, digits, '.', '_', '-', '+'")]
    Name {
        /// Which.
        what: &'static str,
        /// What it says.
        name: String,
    },
    /// It is larger than a program may be.
    #[error("program has {bytes} bytes, at most {limit} are allowed")]
    TooLarge {
        /// Its size.
        bytes: u64,
        /// The limit.
        limit: u64,
    },
    /// The content is not what the header says.
    #[error("program file is damaged: its content has another hash than its header says")]
    Content,
    /// No signature is by a trusted key.
    #[error("program {release} is not signed by a trusted key; it has {found}, trusted are {trusted}")]
    Untrusted {
        /// The release.
        release: String,
        /// Whose signatures it has.
        found: String,
        /// Whose signatures would do.
        trusted: String,
    },
    /// It is for another processor.
    #[error("use a program for {found} as one for {target}")]
    Processor {
        /// What it is for.
        found: &'static str,
        /// What it should be for.
        target: String,
    },
    /// Nothing can run it.
    #[error("use it as a program for {target}: it is neither an ELF file nor a script")]
    NothingToRun {
        /// What it should be for.
        target: String,
    },
    /// Memory ran out.
    #[error("compress the program: {0}")]
    Pack(std::io::Error),
}

/// A program file that was read; nothing of it is believed yet.
#[derive(Debug, Clone)]
pub struct ProgramFile<'a> {
    header: ProgramHeader,
    header_bytes: &'a [u8],
    signatures: Vec<(PublicKey, &'a [u8])>,
    packed: &'a [u8],
}

/// Packs a program and signs it.
///
/// # Errors
/// If it is too large, or its names are none.
pub fn seal(program: &[u8], facts: ProgramFacts, keys: &[&ReleaseKey]) -> Result<Vec<u8>, ProgramError> {
    check_size(program.len() as u64, MAX_PROGRAM_BYTES)?;
    let packed = zstd::bulk::compress(program, ZSTD_LEVEL).map_err(ProgramError::Pack)?;
    let ProgramFacts { release, number, target, created_ms, expires_ms } = facts;
    let (bytes, program, hash) = (program.len() as u64, Digest::of(program), Digest::of(&packed));
    let header = ProgramHeader { release, number, target, created_ms, expires_ms, bytes, program, packed: hash };
    check_names(&header)?;
    let header = postcard::to_allocvec(&header).map_err(|_| ProgramError::Damaged("its header"))?;
    let signatures = keys.iter().map(|key| (key.public(), key.sign_statement(&statement(&header))));
    let signatures: Vec<(PublicKey, [u8; 64])> = signatures.take(MAX_SIGNATURES).collect();
    let file = assemble(&header, &signatures, &packed);
    check_size(file.len() as u64, MAX_PROGRAM_FILE_BYTES)?;
    Ok(file)
}

/// Whether a program can run on a target, as far as its file says: an ELF file names its processor (System V ABI, chapter 4), a script
/// runs everywhere.
///
/// # Errors
/// If it cannot.
pub fn check_processor(program: &[u8], target: &str) -> Result<(), ProgramError> {
    /// ELF's `e_machine`, and how targets begin.
    const PROCESSORS: [(u16, &str, &str); 3] =
        [(62, "x86_64", "x86_64"), (183, "aarch64", "aarch64"), (40, "ARM", "arm")];
    if program.starts_with(b"#!") {
        return Ok(());
    }
    let machine = program.strip_prefix(b"\x7fELF").and_then(|rest| rest.get(14..)?.first_chunk());
    let machine = machine.map(|machine| u16::from_le_bytes(*machine));
    let machine = machine.ok_or_else(|| ProgramError::NothingToRun { target: target.to_owned() })?;
    let found = PROCESSORS.iter().find(|(number, ..)| *number == machine);
    match found {
        Some((_, _, prefix)) if target.starts_with(prefix) => Ok(()),
        _ => {
            let found = found.map_or("another processor", |(_, name, _)| name);
            Err(ProgramError::Processor { found, target: target.to_owned() })
        }
    }
}

/// The file with one more signature.
///
/// # Errors
/// If it is none, or has as many as it may.
pub fn add_signature(bytes: &[u8], key: &ReleaseKey) -> Result<Vec<u8>, ProgramError> {
    let file = ProgramFile::read(bytes)?;
    let others = file.signatures.iter().filter(|(signer, _)| *signer != key.public());
    let others = others.filter_map(|(signer, signed)| Some((*signer, *signed.first_chunk()?)));
    let mut signatures: Vec<(PublicKey, [u8; 64])> = others.collect();
    signatures.push((key.public(), key.sign_statement(&statement(file.header_bytes))));
    if signatures.len() > MAX_SIGNATURES {
        return Err(ProgramError::Damaged("it has too many signatures"));
    }
    Ok(assemble(file.header_bytes, &signatures, file.packed))
}

impl<'a> ProgramFile<'a> {
    /// Whether bytes begin as a program file does.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(&MAGIC)
    }

    /// Takes a file apart. Neither signatures nor hashes are checked.
    ///
    /// # Errors
    /// If it is none.
    pub fn read(bytes: &'a [u8]) -> Result<Self, ProgramError> {
        check_size(bytes.len() as u64, MAX_PROGRAM_FILE_BYTES)?;
        let prefix: &[u8; PREFIX_BYTES] = bytes.first_chunk().ok_or(ProgramError::NotAProgram)?;
        let [a, b, c, d, format @ .., f1, f2, f3, f4] = *prefix;
        if [a, b, c, d] != MAGIC {
            return Err(ProgramError::NotAProgram);
        }
        let [v1, v2, s1, s2] = format;
        let (format, signatures) = (u16::from_le_bytes([v1, v2]), usize::from(u16::from_le_bytes([s1, s2])));
        if format != FORMAT {
            return Err(ProgramError::Format { found: format });
        }
        let header_length = u32::from_le_bytes([f1, f2, f3, f4]) as usize;
        if signatures > MAX_SIGNATURES || header_length > MAX_HEADER_BYTES {
            return Err(ProgramError::Damaged("it says more than there may be"));
        }
        let too_short = ProgramError::Damaged("it ends too early");
        let rest = &bytes[PREFIX_BYTES..];
        let (signed, rest) = rest.split_at_checked(signatures * SIGNATURE_BYTES).ok_or(too_short)?;
        let (header_bytes, packed) =
            rest.split_at_checked(header_length).ok_or(ProgramError::Damaged("it ends too early"))?;
        let signature = |bytes: &'a [u8]| Some((PublicKey(*bytes.first_chunk()?), bytes.get(32..)?));
        let signatures = signed.chunks_exact(SIGNATURE_BYTES).filter_map(signature).collect();
        let header: ProgramHeader =
            postcard::from_bytes(header_bytes).map_err(|_| ProgramError::Damaged("its header is malformed"))?;
        check_names(&header)?;
        check_size(header.bytes, MAX_PROGRAM_BYTES)?;
        Ok(Self { header, header_bytes, signatures, packed })
    }

    /// What it says of itself.
    #[must_use]
    pub fn header(&self) -> &ProgramHeader {
        &self.header
    }

    /// Whose signatures it has that are sound, whether they are trusted or not.
    pub fn signers(&self) -> impl Iterator<Item = PublicKey> {
        let statement = statement(self.header_bytes);
        let sound = self.signatures.iter().filter(move |(key, signed)| key.has_signed(&statement, signed));
        sound.map(|(key, _)| *key)
    }

    /// Proves that one of the `trusted` keys signed it.
    ///
    /// # Errors
    /// If none did.
    pub fn verify(&self, trusted: &[PublicKey]) -> Result<(), ProgramError> {
        if self.signers().any(|key| trusted.contains(&key)) {
            return Ok(());
        }
        let list = |keys: Vec<String>| if keys.is_empty() { "none".to_owned() } else { keys.join(", ") };
        Err(ProgramError::Untrusted {
            release: self.header.release.clone(),
            found: list(self.signatures.iter().map(|(key, _)| key.to_string()).collect()),
            trusted: list(trusted.iter().map(ToString::to_string).collect()),
        })
    }

    /// The program.
    ///
    /// # Errors
    /// If the content is not what the header says.
    pub fn unpack(&self) -> Result<Vec<u8>, ProgramError> {
        if Digest::of(self.packed) != self.header.packed {
            return Err(ProgramError::Content);
        }
        let bytes = usize::try_from(self.header.bytes).map_err(|_| ProgramError::Content)?;
        let program = zstd::bulk::decompress(self.packed, bytes).map_err(|_| ProgramError::Content)?;
        if program.len() != bytes || Digest::of(&program) != self.header.program {
            return Err(ProgramError::Content);
        }
        Ok(program)
    }
}

fn statement(header: &[u8]) -> Vec<u8> {
    [STATEMENT, header].concat()
}

fn assemble(header: &[u8], signatures: &[(PublicKey, [u8; 64])], packed: &[u8]) -> Vec<u8> {
    let mut file = MAGIC.to_vec();
    file.extend(FORMAT.to_le_bytes());
    // Both are bounded far below.
    file.extend((signatures.len() as u16).to_le_bytes());
    file.extend((header.len() as u32).to_le_bytes());
    for (key, signed) in signatures {
        file.extend(key.0);
        file.extend(signed);
    }
    file.extend(header);
    file.extend(packed);
    file
}

fn check_size(bytes: u64, limit: u64) -> Result<(), ProgramError> {
    if bytes > limit { Err(ProgramError::TooLarge { bytes, limit }) } else { Ok(()) }
}

fn check_names(header: &ProgramHeader) -> Result<(), ProgramError> {
    let is_right = |name: &str| {
        let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-+".contains(c);
        (1..=MAX_NAME_BYTES).contains(&name.len()) && name.chars().all(is_allowed)
    };
    let names = [("release", &header.release), ("target", &header.target)];
    match names.into_iter().find(|(_, name)| !is_right(name)) {
        Some((what, name)) => Err(ProgramError::Name { what, name: name.chars().take(80).collect() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> ProgramFacts {
        let (release, target) = ("0.2.0".to_owned(), "x86_64-unknown-linux-musl".to_owned());
        ProgramFacts { release, number: 7, target, created_ms: 1, expires_ms: 2 }
    }

    fn key(seed: u8) -> ReleaseKey {
        ReleaseKey::from_seed(&[seed; 32]).expect("a key")
    }

    #[test]
    fn a_program_is_what_was_packed_and_its_bytes_are_these() {
        let program = b"\x7fELF and more".repeat(100);
        let file = seal(&program, facts(), &[&key(1)]).expect("packs");
        assert_eq!(file[..12], [b'T', b'I', b'D', b'P', 1, 0, 1, 0, 101, 0, 0, 0]);
        assert_eq!(file[108..115], [5, b'0', b'.', b'2', b'.', b'0', 7]);
        let read = ProgramFile::read(&file).expect("reads");
        assert_eq!((read.header().number, read.header().bytes), (7, program.len() as u64));
        read.verify(&[key(2).public(), key(1).public()]).expect("is trusted");
        assert_eq!(read.unpack().expect("unpacks"), program);
    }

    #[test]
    fn a_program_for_another_processor_is_told_by_its_file() {
        let elf = |machine: u8| [&b"\x7fELF\x02\x01\x01"[..], &[0; 9], &[3, 0, machine, 0], &[0; 44]].concat();
        let says = |program: &[u8], target: &str| check_processor(program, target).map_err(|error| error.to_string());
        for (machine, target) in
            [(62, "x86_64-unknown-linux-musl"), (183, "aarch64-unknown-linux-gnu"), (40, "armv7-x")]
        {
            assert_eq!(says(&elf(machine), target), Ok(()));
            assert_eq!(says(b"#!/bin/sh\n", target), Ok(()));
        }
        let wrong = "use a program for x86_64 as one for aarch64-unknown-linux-musl";
        assert_eq!(says(&elf(62), "aarch64-unknown-linux-musl"), Err(wrong.to_owned()));
        assert!(says(&elf(243), "x86_64-unknown-linux-musl").expect_err("RISC-V").contains("for another processor"));
        for nothing in [&b""[..], b"\x7fELF", b"[agent]\n"] {
            assert!(says(nothing, "x86_64").expect_err("nothing").contains("neither an ELF file nor a script"));
        }
    }

    #[test]
    fn another_key_can_be_added_and_a_strange_one_does_not_do() {
        let file = seal(b"program", facts(), &[]).expect("packs");
        let refused = ProgramFile::read(&file).expect("reads").verify(&[key(1).public()]).expect_err("unsigned");
        assert!(refused.to_string().contains("it has none"), "{refused}");
        let twice = add_signature(&add_signature(&file, &key(1)).expect("signs"), &key(2)).expect("signs");
        let again = add_signature(&twice, &key(2)).expect("signs");
        assert_eq!(again, twice, "a key signs once");
        let read = ProgramFile::read(&twice).expect("reads");
        assert_eq!(read.signers().collect::<Vec<_>>(), [key(1).public(), key(2).public()]);
        assert!(matches!(read.verify(&[key(3).public()]), Err(ProgramError::Untrusted { .. })));
    }

    #[test]
    fn whatever_is_changed_is_found() {
        let file = seal(&b"a program of some length".repeat(9), facts(), &[&key(1)]).expect("packs");
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            let is_sound = ProgramFile::read(&changed)
                .is_ok_and(|read| read.verify(&[key(1).public()]).is_ok() && read.unpack().is_ok());
            assert!(!is_sound, "byte {at}");
        }
        for length in 0..file.len() {
            let is_sound = ProgramFile::read(&file[..length]).is_ok_and(|read| read.unpack().is_ok());
            assert!(!is_sound, "{length} bytes");
        }
    }

    #[test]
    fn a_bomb_and_a_path_for_a_name_are_refused() {
        let odd = ProgramFacts { target: "../../etc".to_owned(), ..facts() };
        assert!(matches!(seal(b"p", odd, &[]), Err(ProgramError::Name { what: "target", .. })));
        let packed = zstd::bulk::compress(&vec![0; 1 << 20], 1).expect("packs");
        let header = ProgramHeader {
            release: "1".to_owned(),
            number: 1,
            target: "t".to_owned(),
            created_ms: 0,
            expires_ms: 0,
            bytes: 9,
            program: Digest::of(&[0; 9]),
            packed: Digest::of(&packed),
        };
        let header = postcard::to_allocvec(&header).expect("encodes");
        let file = assemble(&header, &[], &packed);
        assert!(matches!(ProgramFile::read(&file).expect("reads").unpack(), Err(ProgramError::Content)));
    }
}
