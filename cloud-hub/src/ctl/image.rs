//! Images for boxes, from the shell.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use cloud_hub::image::flash::{self, System};
use cloud_hub::image::package::{self, Package};
use cloud_hub::image::seed::{NewBox, Seed, Wifi};
use cloud_hub::image::{self};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shared::config::Source;

use super::client::Client;
use super::enrol::Wanted;
use super::{Ctl, Format, Output, enrol};
use crate::Failure;

/// Stands for a box's number, from 1.
const NUMBER: &str = "{number}";

/// The packages of the agent.
const AGENTS: [&str; 2] = ["tideline-edge", "tideline-edge-gpu"];

/// Seconds that tokens hold on images, unless it is said: cards are put into boxes the same day.
const TOKEN_TTL_S: i64 = 24 * 3_600;

#[derive(Subcommand)]
pub(super) enum Image {
    /// Puts all that a box needs onto the boot partition of a stock image (Raspberry Pi OS, Debian or Ubuntu with cloud-init): at its
    /// first start it installs the agent, without a network but to the hub, and is let in.
    Prepare(Box<Prepare>),
    /// Writes an image to a card, and reads it back. On Linux; it takes no hub. It asks first.
    Flash(Flash),
}

#[derive(clap::Args)]
pub(super) struct Flash {
    /// The image.
    image: PathBuf,
    /// The card: a whole disk, such as /dev/sdb.
    disk: PathBuf,
    /// It may be a disk that cannot be pulled out of this machine.
    #[arg(long)]
    fixed_disk: bool,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
}

#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cloud-hub ctl image prepare --image raspios.img --package tideline-edge_0.1.0_arm64.deb \\\n    \
                  --token-ttl 24h --labels site=a --output edge.img\n  \
                  cloud-hub ctl image prepare --image debian.img --package tideline-edge_0.1.0_amd64.deb \\\n    \
                  --qty 20 --host-name 'edge-{number}' --output 'edge-{number}.img'\n  \
                  cloud-hub ctl image prepare --image debian.img --package tideline-edge_0.1.0_amd64.deb \\\n    \
                  --claim --labels batch=7 --output factory.img"
)]
pub(super) struct Prepare {
    /// The stock image, unpacked.
    #[arg(long)]
    image: PathBuf,
    /// The agent's package for it, .deb or .rpm.
    #[arg(long)]
    package: PathBuf,
    /// The image to write.
    // By its name it is the option that `ctl` hands down to all of its commands, so it is of that one's type: a file here, not a format.
    #[arg(long, short, value_name = "IMAGE", value_parser = super::output)]
    output: Option<Output>,
    /// Say what was made in JSON.
    #[arg(long)]
    json: bool,
    /// How many boxes: each has an image and a token of its own, and `{number}` in --output is its number.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    qty: u32,
    /// One image for any number of boxes: it holds a claim, with which each box asks, and waits until somebody approves.
    #[arg(long, conflicts_with = "qty")]
    claim: bool,
    /// How long the tokens hold; without it 24 hours, a claim a year.
    #[arg(long, value_parser = enrol::duration_s)]
    token_ttl: Option<i64>,
    /// What the boxes are labelled with: site=a,line=4.
    #[arg(long, value_delimiter = ',', value_parser = enrol::label)]
    labels: Vec<(String, String)>,
    /// Where boxes reach the hub, host:port; without it, where the hub's configuration says.
    #[arg(long, value_delimiter = ',')]
    address: Vec<String>,
    /// What a box calls itself, on its network and, unless it has a claim, at the hub; `{number}` is its number. Without it
    /// edge-{number}, or edge.
    #[arg(long)]
    host_name: Option<String>,
    /// The agent's configuration, instead of the package's own.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The wireless network to join.
    #[arg(long)]
    wifi: Option<String>,
    /// A file with its password.
    #[arg(long, requires = "wifi")]
    wifi_password_file: Option<PathBuf>,
    /// The country whose rules the radio keeps, as two letters.
    #[arg(long, requires = "wifi")]
    wifi_country: Option<String>,
    /// A file with a public key that may log in over SSH.
    #[arg(long)]
    ssh_key_file: Option<PathBuf>,
}

pub(super) fn image(ctl: &Ctl, client: &Client, image: &Image) -> Result<(), Failure> {
    match image {
        Image::Prepare(options) => prepare(client, options),
        Image::Flash(options) => flash(ctl, options),
    }
}

fn prepare(client: &Client, options: &Prepare) -> Result<(), Failure> {
    let usage = |message: String| Failure { code: 2, message };
    let Some(Output::File(output)) = &options.output else {
        return Err(usage("say with --output which image to write".to_owned()));
    };
    let output = output.display().to_string();
    let own = if options.claim { "edge" } else { "edge-{number}" };
    let host_names = options.host_name.as_deref().unwrap_or(own);
    if options.qty > 1 && !(output.contains(NUMBER) && host_names.contains(NUMBER)) {
        let says =
            format!("--output and --host-name must hold {NUMBER} for --qty {}: each box has its own", options.qty);
        return Err(usage(says));
    }
    let package_name = options.package.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let package = read(&options.package)?;
    let is_agent =
        |package: &Package| AGENTS.contains(&package.name.as_str()) && package_name.ends_with(package.ending);
    let Some(about) = package::read(&package).filter(is_agent) else {
        return Err(usage(format!(
            "{} is no package of the agent; tideline-edge_0.1.0_arm64.deb would be one",
            options.package.display()
        )));
    };
    image::check(&options.image, &about).map_err(Failure::new)?;
    let text = |path: &Option<PathBuf>| {
        let text = path.as_deref().map(read).transpose()?;
        let text = text.map(String::from_utf8).transpose().map_err(Failure::new)?;
        Ok::<_, Failure>(text.map(|text| text.trim_end_matches(['\r', '\n']).to_owned()))
    };
    let password = text(&options.wifi_password_file)?;
    let wifi = options.wifi.clone().map(|ssid| Wifi { ssid, password, country: options.wifi_country.clone() });
    let config = options.config.as_deref().map(agent_config).transpose()?;
    let ssh_key = text(&options.ssh_key_file)?;
    let mut made = Vec::new();
    for number in 1..=options.qty {
        let numbered = |text: &str| text.replace(NUMBER, &number.to_string());
        let (host_name, output) = (numbered(host_names), PathBuf::from(numbered(&output)));
        if output.exists() {
            return Err(Failure::new(format!("write {}: it is there already", output.display())));
        }
        let claim = options.claim;
        let tokens = enrol::create(
            client,
            &Wanted {
                claim,
                ttl_s: options.token_ttl.or((!claim).then_some(TOKEN_TTL_S)),
                labels: &options.labels,
                agent: (!claim).then_some(host_name.as_str()),
                quantity: 1,
                addresses: &options.address,
            },
        )?;
        let token = tokens.first().cloned().unwrap_or(Value::Null);
        let said = |name: &str| token[name].as_str().unwrap_or_default().to_owned();
        let new = NewBox {
            host_name: host_name.clone(),
            instance: format!("tideline-{}", said("id")),
            package: (package_name.clone(), package.clone()),
            config: config.clone(),
            token: said("token"),
            wifi: wifi.clone(),
            ssh_key: ssh_key.clone(),
        };
        let bar = bar();
        let prepared = image::prepare(&options.image, &output, &Seed::for_box(&new), &mut |done, all| {
            bar.set_length(all);
            bar.set_position(done);
        });
        bar.finish_and_clear();
        if let Err(failure) = prepared {
            // Nobody has it.
            client.send("DELETE", &format!("enrolment-tokens/{}", said("id")), &json!({})).ok();
            return Err(Failure::new(failure));
        }
        made.push(
            json!({ "image": output, "agent": token["agent"], "token": said("id"), "expires": token["expires"] }),
        );
    }
    if !options.json {
        for one in &made {
            let text = |name: &str| one[name].as_str().unwrap_or_default().to_owned();
            let becomes = one["agent"].as_str().unwrap_or("any box that somebody approves");
            crate::say(&format!("{} becomes {becomes}, until {}", text("image"), text("expires")))?;
        }
        return Ok(());
    }
    super::table::print(Format::Json, &[], &made)
}

/// The boxes' configuration, as far as it can be looked at here: `edge-agent check-config` knows the rest. It names no box, because each
/// gets its name with its token.
fn agent_config(path: &Path) -> Result<String, Failure> {
    let source = Source::read(path, |path| std::fs::File::open(path)).map_err(Failure::new)?;
    let root: toml::Table = source.parse().map_err(Failure::new)?;
    match root.get("agent").and_then(|agent| agent.get("name")) {
        Some(_) => Err(Failure::new(format!(
            "use {}: agent.name stands in it; leave it out, each box gets its name with its token",
            path.display()
        ))),
        None => Ok(source.text().to_owned()),
    }
}

pub(super) fn flash(ctl: &Ctl, options: &Flash) -> Result<(), Failure> {
    let image = options.image.as_path();
    let needed =
        std::fs::metadata(image).map_err(|error| Failure::new(format!("read {}: {error}", image.display())))?.len();
    image::check_image(image).map_err(Failure::new)?;
    let system = System::here();
    let disk = &system.check(&options.disk, needed, options.fixed_disk).map_err(Failure::new)?;
    if !options.yes {
        confirm(&format!("everything on {} ({}) will be gone", disk.display(), system.describe(disk)))?;
    }
    let bar = bar();
    let written = flash::write(image, disk, &mut |done, all, back| {
        bar.set_length(all);
        bar.set_message(if back { "read back" } else { "written" });
        bar.set_position(done);
    });
    bar.finish_and_clear();
    let written = written.map_err(Failure::new)?;
    if ctl.format() == Format::Table {
        let says = format!("{written} bytes of {} are on {}, and were read back", image.display(), disk.display());
        return crate::say(&says);
    }
    super::print_one(ctl, &json!({ "image": image, "disk": disk, "bytes": written }))
}

/// Asks somebody, if there is somebody.
fn confirm(consequence: &str) -> Result<(), Failure> {
    let usage = |message: String| Failure { code: 2, message };
    if !std::io::stdin().is_terminal() {
        return Err(usage(format!("{consequence}, and nobody is there to be asked; say --yes")));
    }
    let asked = write!(std::io::stderr(), "{consequence}. Go on? [y/N] ");
    asked.map_err(|error| Failure::new(format!("ask: {error}")))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(|error| Failure::new(format!("read the answer: {error}")))?;
    let is_yes = matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes");
    if is_yes { Ok(()) } else { Err(usage("nothing was written".to_owned())) }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|error| Failure::new(format!("read {}: {error}", path.display())))
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {msg} {eta}");
    ProgressBar::new(0).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
