//! The hub's configuration: raw TOML into checked values.

mod link;
mod rollout;

use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use shared::config::{ConfigError, Problems, Source};
use shared::device::DeviceKind;
use shared::ids::ModelName;
use shared::package::signature::PublicKey;
use toml::Spanned;

pub(crate) use self::link::check_address;
use crate::core::ModelSpec;
use crate::recipe::Recipe;
use crate::recipe::decision::RecipeDecision;

/// Milliseconds between two compactions: from a tenth of a second to an hour.
const COMPACT_INTERVAL_MS: Range<i64> = 100..3_600_001;
const DEFAULT_COMPACT_INTERVAL_MS: i64 = 5_000;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where everything is kept.
    pub data_directory: PathBuf,
    /// Whose packages may be brought by hand, beside the hub's own.
    pub trust: Vec<PublicKey>,
    /// The link to agents.
    pub link: LinkSection,
    /// The hub's own authority; none if others issue all certificates.
    pub authority: Option<AuthoritySection>,
    /// The HTTP interface.
    pub api: ApiSection,
    /// The sample store.
    pub samples: SamplesSection,
    /// The models the hub keeps.
    pub models: Vec<ModelSection>,
}

/// The link to agents.
#[derive(Debug, Clone)]
pub struct LinkSection {
    /// The UDP address to listen on.
    pub listen: SocketAddr,
    /// The TCP address to listen on, for agents whose network lets no UDP through: by default the same.
    pub tcp_listen: Option<SocketAddr>,
    /// The hub's certificate, if somebody else issues it.
    pub files: Option<LinkFiles>,
    /// Where boxes reach the hub, for enrolment tokens: `host:port`, the best first.
    pub public_addresses: Vec<String>,
}

/// A certificate that somebody else issues.
#[derive(Debug, Clone)]
pub struct LinkFiles {
    /// The certificates agents' certificates are checked against, PEM.
    pub ca_file: PathBuf,
    /// The hub's certificate, PEM.
    pub certificate_file: PathBuf,
    /// Its key, PEM.
    pub key_file: PathBuf,
}

/// The hub's own authority, which lets boxes in.
#[derive(Debug, Clone)]
pub struct AuthoritySection {
    /// The folder with its roots and its issuer.
    pub directory: PathBuf,
    /// Milliseconds for which a box's certificate holds.
    pub certificate_lifetime_ms: i64,
    /// The name that boxes find in the hub's certificate.
    pub server_name: String,
}

/// The HTTP interface.
#[derive(Debug, Clone)]
pub struct ApiSection {
    /// The TCP address to listen on.
    pub listen: SocketAddr,
    /// Where people reach it, if not there.
    pub public_url: Option<String>,
}

impl ApiSection {
    /// Whether people reach it over TLS.
    #[must_use]
    pub fn is_public_over_tls(&self) -> bool {
        self.public_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }
}

/// The sample store.
#[derive(Debug, Clone, Copy)]
pub struct SamplesSection {
    /// Milliseconds between two compactions.
    pub compact_interval_ms: i64,
}

/// A model the hub keeps.
#[derive(Debug, Clone)]
pub struct ModelSection {
    /// What the core needs of it.
    pub spec: ModelSpec,
    /// How it is made.
    pub recipe: Recipe,
    /// The device it is trained on.
    pub device: DeviceKind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawConfig {
    hub: RawHub,
    #[serde(default)]
    link: RawLink,
    authority: Option<Spanned<RawAuthority>>,
    #[serde(default)]
    api: RawApi,
    #[serde(default)]
    samples: RawSamples,
    #[serde(default)]
    model: Vec<RawModel>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHub {
    data_directory: PathBuf,
    #[serde(default)]
    trust: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawLink {
    listen: SocketAddr,
    tcp_listen: Option<SocketAddr>,
    ca_file: Option<Spanned<PathBuf>>,
    certificate_file: Option<Spanned<PathBuf>>,
    key_file: Option<Spanned<PathBuf>>,
    public_addresses: Vec<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawAuthority {
    directory: Option<PathBuf>,
    certificate_lifetime_s: Option<Spanned<i64>>,
    server_name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawApi {
    listen: SocketAddr,
    public_url: Option<Spanned<String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawSamples {
    compact_interval_ms: Option<Spanned<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    name: Spanned<String>,
    streams: Spanned<Vec<String>>,
    #[serde(default = "every_box")]
    boxes: Spanned<Vec<String>>,
    recipe: PathBuf,
    #[serde(default)]
    device: DeviceKind,
    #[serde(default)]
    rollout: rollout::RawRollout,
}

fn every_box() -> Spanned<Vec<String>> {
    Spanned::new(0..0, vec!["*".to_owned()])
}

impl Default for RawLink {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 4433)),
            tcp_listen: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
            public_addresses: Vec::new(),
        }
    }
}

impl Default for RawApi {
    /// Without TLS of its own the interface is for this machine alone, and for what stands in front of it.
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 8080)), public_url: None }
    }
}

impl Config {
    /// Reads a configuration and the recipes it names. Relative paths in it are relative to the file.
    ///
    /// # Errors
    /// Says in which file, line and column what is wrong.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let source = Source::read(path, |path| std::fs::File::open(path))?;
        let raw: RawConfig = source.parse()?;
        let base = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut problems = Problems::new(&source);
        let compact_interval_ms = match &raw.samples.compact_interval_ms {
            None => DEFAULT_COMPACT_INTERVAL_MS,
            Some(value) => {
                if !COMPACT_INTERVAL_MS.contains(value.get_ref()) {
                    let (low, high) = (COMPACT_INTERVAL_MS.start, COMPACT_INTERVAL_MS.end - 1);
                    problems
                        .at(value.span(), format!("{} is out of range; {low} to {high} are allowed", value.get_ref()));
                }
                *value.get_ref()
            }
        };
        let mut trust = Vec::new();
        for key in &raw.hub.trust {
            match key.get_ref().parse() {
                Ok(key) => trust.push(key),
                Err(error) => problems.at(key.span(), error),
            }
        }
        let mut models = Vec::new();
        for raw in &raw.model {
            models.extend(model(raw, &base, &mut problems)?);
        }
        for (index, raw_model) in raw.model.iter().enumerate() {
            if raw.model[..index].iter().any(|other| other.name.get_ref() == raw_model.name.get_ref()) {
                problems.at(raw_model.name.span(), format!("there is a model {:?} already", raw_model.name.get_ref()));
            }
        }
        let public_url = raw.api.public_url.and_then(|url| check_url(&url, &mut problems));
        let data_directory = base.join(raw.hub.data_directory);
        let (link, authority) = link::check(raw.link, raw.authority, &base, &data_directory, &mut problems);
        problems.finish(Some(Self {
            data_directory,
            trust,
            link,
            authority,
            api: ApiSection { listen: raw.api.listen, public_url },
            samples: SamplesSection { compact_interval_ms },
            models,
        }))
    }
}

fn model(raw: &RawModel, base: &Path, problems: &mut Problems<'_>) -> Result<Option<ModelSection>, ConfigError> {
    let recipe = Recipe::load(&base.join(&raw.recipe))?;
    if raw.streams.get_ref().is_empty() {
        problems.at(raw.streams.span(), "no stream; name some, or \"*\" for all");
    }
    if raw.boxes.get_ref().is_empty() {
        problems.at(raw.boxes.span(), "no box; name some, or leave it out for all");
    }
    if !matches!(recipe.decision, RecipeDecision::Anomaly(_)) {
        let file = raw.recipe.display();
        problems.at(
            raw.name.span(),
            format!("{file} has labels or a forecast to learn, which the hub does not; it must be an anomaly recipe (`cloud-hub train` takes all)"),
        );
    }
    let rollout = raw.rollout.check(problems);
    match ModelName::new(raw.name.get_ref()) {
        Err(error) => {
            problems.at(raw.name.span(), error);
            Ok(None)
        }
        Ok(name) => {
            let spec = ModelSpec {
                name,
                streams: raw.streams.get_ref().clone(),
                boxes: raw.boxes.get_ref().clone(),
                drift: recipe.drift.alarm,
                retrain: recipe.retrain,
                min_segments: recipe.gate.min_segments,
                rollout,
            };
            Ok(Some(ModelSection { spec, recipe, device: raw.device }))
        }
    }
}

fn check_url(url: &Spanned<String>, problems: &mut Problems<'_>) -> Option<String> {
    let text = url.get_ref().trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    if host.is_none_or(|host| host.is_empty() || host.contains(['/', ' '])) {
        problems.at(url.span(), format!("{:?} is no address; \"https://hub.example\" would be one", url.get_ref()));
        return None;
    }
    Some(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = "preprocess = [{ ema = { alpha = 0.1 } }, { zscore = {} }]\nnetwork = [{ linear = { outputs = 4 } }, 'tanh', { linear = {} }]\n\
        decision = { anomaly = { smooth = 0.2 } }\n[training]\nepochs = 1\nbatch = 8\nlearning_rate = 0.01\n";

    fn load(config: &str) -> Result<Config, String> {
        let dir = tempfile::tempdir().expect("dir");
        std::fs::write(dir.path().join("r.toml"), RECIPE).expect("writes");
        let classifier = RECIPE.replace("{ anomaly = { smooth = 0.2 } }", "{ classify = { labels = ['a', 'b'] } }");
        std::fs::write(dir.path().join("c.toml"), classifier).expect("writes");
        let path = dir.path().join("hub.toml");
        std::fs::write(&path, config).expect("writes");
        Config::load(&path).map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    fn with_model(model: &str) -> String {
        format!(
            "[hub]\ndata_directory = \"d\"\n[link]\nca_file = \"ca\"\ncertificate_file = \"c\"\nkey_file = \"k\"\n{model}"
        )
    }

    #[test]
    fn a_short_configuration_has_sound_defaults() {
        let model = "[[model]]\nname = \"pump\"\nstreams = [\"plant/*\"]\nrecipe = \"r.toml\"\n";
        let config = load(&with_model(model)).expect("good");
        assert!(config.api.listen.ip().is_loopback());
        assert_eq!(config.models[0].recipe.network.len(), 3);
        let covers = |config: &Config, agent: &str, stream: &str| {
            let (agent, stream) = (shared::ids::AgentId::new(agent), shared::ids::StreamId::new(stream));
            config.models[0].spec.covers(&agent.expect("valid"), &stream.expect("valid"))
        };
        assert!(covers(&config, "any", "plant/7") && !covers(&config, "any", "other"));
        let cohort = model.replace("recipe", "boxes = [\"north-*\"]\nrecipe");
        let config = load(&with_model(&cohort)).expect("good");
        assert!(covers(&config, "north-1", "plant/7") && !covers(&config, "south-1", "plant/7"));
        let error = load(&with_model(&model.replace("recipe", "boxes = []\nrecipe"))).expect_err("no box");
        assert!(error.contains("hub.toml:10:9") && error.contains("no box"), "{error}");
    }

    #[test]
    fn a_hub_is_its_own_authority_unless_it_is_told_of_another() {
        let own = load("[hub]\ndata_directory = \"d\"\n").expect("good");
        assert!(own.link.files.is_none() && own.authority.expect("one").directory.ends_with("d/authority"));
        let given = load(&with_model("")).expect("good");
        assert!(given.link.files.is_some() && given.authority.is_none());
        let both = load(&with_model("[authority]\nserver_name = \"hub.example\"\n")).expect("good");
        assert!(both.link.files.is_some() && both.authority.is_some_and(|one| one.server_name == "hub.example"));
        let error = load(&with_model("[authority]\ndirectory = \"a\"\n")).expect_err("no name");
        assert!(error.contains("hub.toml:7:1") && error.contains("server_name"), "{error}");
        let half = "[hub]\ndata_directory = \"d\"\n[link]\nca_file = \"ca\"\n";
        let error = load(half).expect_err("half of the files");
        assert!(error.contains("hub.toml:4:11") && error.contains("certificate_file and key_file"), "{error}");
        let error = load("[hub]\ndata_directory = \"d\"\n[link]\npublic_addresses = [\"hub\"]\n").expect_err("no port");
        assert!(error.contains("hub.toml:4:21") && error.contains("hub.example:4433"), "{error}");
        let short = "[hub]\ndata_directory = \"d\"\n[authority]\ncertificate_lifetime_s = 1\n";
        assert!(load(short).expect_err("too short").contains("10 to 31622400"));
    }

    #[test]
    fn mistakes_are_shown_where_they_stand() {
        let error = load(&with_model("[samples]\ncompact_interval_ms = 7\n")).expect_err("out of range");
        assert!(error.contains("hub.toml:8:23") && error.contains("100 to 3600000"), "{error}");
        let error = load(&with_model("[api]\nlissten = \"127.0.0.1:1\"\n")).expect_err("unknown key");
        assert!(error.contains("hub.toml:8:1") && error.contains("listen"), "{error}");
        let classifier = with_model("[[model]]\nname = \"room\"\nstreams = [\"x\"]\nrecipe = \"c.toml\"\n");
        let error = load(&classifier).expect_err("no anomaly recipe");
        assert!(error.contains("hub.toml:8:8") && error.contains("it must be an anomaly recipe"), "{error}");
        let model = "[[model]]\nname = \"a b\"\nstreams = [\"x\"]\nrecipe = \"r.toml\"\n";
        let error = load(&with_model(model)).expect_err("bad name");
        assert!(error.contains("hub.toml:8:8") && error.contains("' '"), "{error}");
    }
}
