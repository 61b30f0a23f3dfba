//! Puts the built dashboard into the program, as it is and compressed, and tells cargo what else the program embeds.

use std::error::Error;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;

/// Where the dashboard's build puts it, see dashboard/README.md.
const DASHBOARD: &str = "dashboard/dist";

#[expect(clippy::disallowed_methods, reason = "cargo says in the environment where things are")]
fn main() -> Result<(), Box<dyn Error>> {
    writeln!(std::io::stdout(), "cargo:rerun-if-changed=migrations\ncargo:rerun-if-changed={DASHBOARD}")?;
    let output = PathBuf::from(std::env::var("OUT_DIR")?);
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join(DASHBOARD);
    let mut files = Vec::new();
    collect(&root, "", &mut files)?;
    files.sort();
    let mut table =
        "/// Name, media type, content, and the same as gzip.\nconst FILES: &[(&str, &str, &[u8], &[u8])] = &[\n"
            .to_owned();
    for (number, (name, path)) in files.iter().enumerate() {
        let packed = output.join(format!("dashboard-{number}.gz"));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&fs::read(path)?)?;
        fs::write(&packed, encoder.finish()?)?;
        let kind = media_type(name)?;
        writeln!(table, "    ({name:?}, {kind:?}, include_bytes!({path:?}), include_bytes!({packed:?})),")?;
    }
    table.push_str("];\n");
    fs::write(output.join("dashboard.rs"), table)?;
    Ok(())
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<(String, PathBuf)>) -> Result<(), Box<dyn Error>> {
    let entries = fs::read_dir(folder).map_err(|error| format!("read {}: {error}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &format!("{name}/"), files)?;
        } else {
            files.push((name, entry.path()));
        }
    }
    Ok(())
}

fn media_type(name: &str) -> Result<&'static str, Box<dyn Error>> {
    match name.rsplit('.').next() {
        Some("html") => Ok("text/html; charset=utf-8"),
        Some("js") => Ok("text/javascript; charset=utf-8"),
        Some("css") => Ok("text/css; charset=utf-8"),
        Some("svg") => Ok("image/svg+xml"),
        _ => Err(format!("the dashboard's file {name} is of a kind that this script does not know").into()),
    }
}
