//! What an act changes, and what must hold for it.

use std::collections::BTreeMap;

use shared::event::UnixMillis;

use super::{
    Act, DEFAULT_EXPERIMENT, Deed, Document, Experiment, Fault, Point, RUN_NAME_TAG, RegisteredModel, Texts,
    TrackedRun, TrackedVersion, Tracking,
};
use crate::core::limits::{MAX_POINTS, MAX_TRACKED, MAX_TRACKED_ENTRIES, MAX_TRACKED_TEXT_BYTES};

impl Tracking {
    /// What an act changes.
    ///
    /// # Errors
    /// If it makes no sense, or says too much.
    pub fn perform(&self, now: UnixMillis, act: Act) -> Result<Deed, Fault> {
        match act {
            Act::CreateExperiment { id, name, tags } => {
                check_texts([("name", name.as_str())])?;
                Self::check_new(self.has_experiment(&name), self.experiments.len(), "experiment", &name)?;
                let (created_ms, updated_ms, tags) = (now, now, bounded(tags)?);
                Ok(of_experiment(Experiment { id, name, created_ms, updated_ms, tags, is_deleted: false }))
            }
            Act::TagExperiment { id, key, value } => {
                let mut known = self.known_experiment(&id)?.clone();
                set(&mut known.tags, key, Some(value))?;
                Ok(of_experiment(Experiment { updated_ms: now, ..known }))
            }
            Act::RenameExperiment { id, name } => {
                let known = self.known_experiment(&id)?.clone();
                check_texts([("name", name.as_str())])?;
                check_free(known.name != name && self.has_experiment(&name), "experiment", &name)?;
                Ok(of_experiment(Experiment { name, updated_ms: now, ..known }))
            }
            Act::SetExperimentDeleted { id, is_deleted } => {
                let known = self.known_experiment(&id)?.clone();
                if id == DEFAULT_EXPERIMENT {
                    return Err(Fault::Invalid("runs that name no experiment are in this one, so it stays".to_owned()));
                }
                check_free(
                    known.is_deleted && !is_deleted && self.has_experiment(&known.name),
                    "experiment",
                    &known.name,
                )?;
                Ok(of_experiment(Experiment { is_deleted, updated_ms: now, ..known }))
            }
            Act::CreateRun { id, experiment, name, user, started_ms, tags } => {
                if self.known_experiment(&experiment)?.is_deleted {
                    return Err(Fault::Invalid(format!("experiment {experiment:?} is thrown away")));
                }
                check_texts([("name", name.as_str()), ("user", user.as_str())])?;
                let gone = self.room_for_run();
                let count = self.runs.len() - gone.iter().len();
                Self::check_new(self.runs.contains_key(&id), count, "run", &id)?;
                let (status, tags) = ("RUNNING".to_owned(), bounded(tags)?);
                let (params, metrics, ended_ms, is_deleted) = (Texts::new(), BTreeMap::new(), None, false);
                let mut deed = of_run(TrackedRun {
                    id,
                    experiment,
                    name,
                    user,
                    status,
                    started_ms,
                    ended_ms,
                    params,
                    tags,
                    metrics,
                    is_deleted,
                    points: 0,
                });
                deed.documents.extend(gone.map(Document::RunGone));
                Ok(deed)
            }
            Act::UpdateRun { id, status, ended_ms, name } => self.update_run(&id, status, ended_ms, name),
            Act::Log { id, params, tags, metrics } => self.log(&id, params, tags, metrics),
            Act::UntagRun { id, key } => {
                let mut run = self.known_run(&id)?.clone();
                run.tags.remove(&key).ok_or_else(|| missing("tag", &key))?;
                Ok(of_run(run))
            }
            Act::SetRunDeleted { id, is_deleted } => {
                Ok(of_run(TrackedRun { is_deleted, ..self.known_run(&id)?.clone() }))
            }
            Act::CreateModel { name, description, tags } => {
                check_texts([("description", description.as_str()), ("name", name.as_str())])?;
                Self::check_new(self.models.contains_key(&name), self.models.len(), "registered model", &name)?;
                let tags = bounded(tags)?;
                Ok(of_model(RegisteredModel { description, tags, ..self.model_or_new(&name, now) }))
            }
            Act::DescribeModel { name, description } => {
                check_texts([("description", description.as_str())])?;
                Ok(of_model(RegisteredModel { description, updated_ms: now, ..self.model_or_new(&name, now) }))
            }
            Act::RenameModel { name, new_name } => {
                let known = self.known_model(&name)?.clone();
                check_texts([("name", new_name.as_str())])?;
                check_free(self.models.contains_key(&new_name), "registered model", &new_name)?;
                let renamed = RegisteredModel { name: new_name, updated_ms: now, ..known };
                Ok(Deed { documents: vec![Document::ModelGone(name), Document::Model(renamed)], points: vec![] })
            }
            Act::DeleteModel { name } => {
                self.known_model(&name)?;
                Ok(Deed { documents: vec![Document::ModelGone(name)], points: vec![] })
            }
            Act::TagModel { name, key, value } => {
                let mut model = self.model_or_new(&name, now);
                set(&mut model.tags, key, value)?;
                Ok(of_model(RegisteredModel { updated_ms: now, ..model }))
            }
            Act::CreateVersion { name, source, run, description, user, tags } => {
                let mut model = self.known_model(&name)?.clone();
                check_texts([
                    ("source", source.as_str()),
                    ("run", run.as_str()),
                    ("description", description.as_str()),
                ])?;
                check_count(model.versions.len() + 1, "versions")?;
                let (created_ms, updated_ms, tags, version) = (now, now, bounded(tags)?, model.next_version);
                model.next_version += 1;
                let made = TrackedVersion { version, source, run, description, user, created_ms, updated_ms, tags };
                model.versions.push(made);
                Ok(of_model(RegisteredModel { updated_ms: now, ..model }))
            }
            Act::NoteVersion { name, version, run, description, user, tags } => {
                check_texts([("run", run.as_str()), ("description", description.as_str())])?;
                let mut model = self.model_or_new(&name, now);
                check_count(model.versions.len() + 1, "versions")?;
                let (source, tags) = (String::new(), bounded(tags)?);
                let noted = version_of(&mut model, version, now);
                *noted = TrackedVersion { source, run, description, user, tags, ..noted.clone() };
                Ok(of_model(model))
            }
            Act::DescribeVersion { name, version, description } => {
                check_texts([("description", description.as_str())])?;
                let mut model = self.model_or_new(&name, now);
                version_of(&mut model, version, now).description = description;
                Ok(of_model(model))
            }
            Act::DeleteVersion { name, version } => {
                let mut model = self.known_model(&name)?.clone();
                let before = model.versions.len();
                model.versions.retain(|known| known.version != version);
                model.aliases.retain(|_, of| *of != version);
                if model.versions.len() == before {
                    return Err(missing("version", &version.to_string()));
                }
                Ok(of_model(RegisteredModel { updated_ms: now, ..model }))
            }
            Act::TagVersion { name, version, key, value } => {
                let mut model = self.model_or_new(&name, now);
                set(&mut version_of(&mut model, version, now).tags, key, value)?;
                Ok(of_model(model))
            }
            Act::SetAlias { name, alias, version } => {
                let mut model = self.model_or_new(&name, now);
                check_texts([("alias", alias.as_str())])?;
                match version {
                    None => drop(model.aliases.remove(&alias)),
                    Some(version) => drop(model.aliases.insert(alias, version)),
                }
                check_count(model.aliases.len(), "aliases")?;
                Ok(of_model(RegisteredModel { updated_ms: now, ..model }))
            }
        }
    }

    fn update_run(
        &self,
        id: &str,
        status: Option<String>,
        ended_ms: Option<UnixMillis>,
        name: Option<String>,
    ) -> Result<Deed, Fault> {
        let mut run = self.known_run(id)?.clone();
        if let Some(status) = status {
            if !STATUSES.contains(&status.as_str()) {
                return Err(Fault::Invalid(format!("the status is one of {STATUSES:?}, not {status:?}")));
            }
            run.status = status;
        }
        run.ended_ms = ended_ms.or(run.ended_ms);
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            check_texts([("name", name.as_str())])?;
            run.tags.insert(RUN_NAME_TAG.to_owned(), name.clone());
            run.name = name;
        }
        Ok(of_run(run))
    }

    fn log(&self, id: &str, params: Texts, tags: Texts, metrics: Vec<(String, Point)>) -> Result<Deed, Fault> {
        let mut run = self.known_run(id)?.clone();
        for (key, value) in params {
            // What a run was told does not change: a second training is another run.
            if run.params.get(&key).is_some_and(|known| *known != value) {
                return Err(Fault::Invalid(format!("parameter {key:?} of run {id} has another value already")));
            }
            set(&mut run.params, key, Some(value))?;
        }
        for (key, value) in tags {
            set(&mut run.tags, key, Some(value))?;
        }
        let mut points = Vec::with_capacity(metrics.len());
        for (key, point) in metrics {
            check_texts([("name of a metric", key.as_str())])?;
            let is_newer = |known: &Point| (known.step, known.timestamp) <= (point.step, point.timestamp);
            if run.metrics.get(&key).is_none_or(is_newer) {
                run.metrics.insert(key.clone(), point);
            }
            points.push((id.to_owned(), key, point));
        }
        check_count(run.metrics.len(), "metrics")?;
        run.points += points.len() as u64;
        if run.points > MAX_POINTS {
            return Err(Fault::Invalid(format!("a run has at most {MAX_POINTS} points of its figures")));
        }
        Ok(Deed { points, ..of_run(run) })
    }

    /// Whether there is such a version among those that are tracked.
    #[must_use]
    pub fn has_version(&self, name: &str, number: u32) -> bool {
        self.model(name).is_some_and(|model| model.versions.iter().any(|known| known.version == number))
    }

    /// The run that makes room for another, where there are as many as there may be: of those that are thrown away the oldest.
    fn room_for_run(&self) -> Option<String> {
        let is_full = self.runs.len() >= MAX_TRACKED;
        let deleted = self.runs().filter(|run| is_full && run.is_deleted);
        deleted.min_by_key(|run| run.started_ms).map(|run| run.id.clone())
    }

    /// Whether an experiment that is not thrown away has this name.
    fn has_experiment(&self, name: &str) -> bool {
        self.experiments().any(|known| known.name == name && !known.is_deleted)
    }

    fn known_experiment(&self, id: &str) -> Result<&Experiment, Fault> {
        self.experiment(id).ok_or_else(|| missing("experiment", id))
    }

    fn known_run(&self, id: &str) -> Result<&TrackedRun, Fault> {
        self.run(id).ok_or_else(|| missing("run", id))
    }

    fn known_model(&self, name: &str) -> Result<&RegisteredModel, Fault> {
        self.model(name).ok_or_else(|| missing("registered model", name))
    }

    /// A model of the hub's own has an entry once there is something to say of it.
    fn model_or_new(&self, name: &str, now: UnixMillis) -> RegisteredModel {
        self.model(name).cloned().unwrap_or_else(|| RegisteredModel {
            name: name.to_owned(),
            description: String::new(),
            created_ms: now,
            updated_ms: now,
            tags: Texts::new(),
            aliases: BTreeMap::new(),
            versions: Vec::new(),
            next_version: 1,
        })
    }

    fn check_new(is_taken: bool, count: usize, kind: &str, name: &str) -> Result<(), Fault> {
        check_free(is_taken, kind, name)?;
        if count >= MAX_TRACKED {
            return Err(Fault::Invalid(format!("there are {MAX_TRACKED} {kind}s already: delete one")));
        }
        Ok(())
    }
}

/// How a run can stand.
const STATUSES: [&str; 5] = ["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"];

fn of_experiment(experiment: Experiment) -> Deed {
    Deed { documents: vec![Document::Experiment(experiment)], points: vec![] }
}

fn of_run(run: TrackedRun) -> Deed {
    Deed { documents: vec![Document::Run(run)], points: vec![] }
}

fn of_model(model: RegisteredModel) -> Deed {
    Deed { documents: vec![Document::Model(model)], points: vec![] }
}

/// What is said of a version; of the hub's own there may be nothing yet.
fn version_of(model: &mut RegisteredModel, number: u32, now: UnixMillis) -> &mut TrackedVersion {
    let index = match model.versions.iter().position(|known| known.version == number) {
        Some(index) => index,
        None => {
            let (source, run, description, user) = (String::new(), String::new(), String::new(), String::new());
            let (created_ms, updated_ms, tags) = (now, now, Texts::new());
            let entry =
                TrackedVersion { version: number, source, run, description, user, created_ms, updated_ms, tags };
            model.versions.push(entry);
            model.versions.len() - 1
        }
    };
    let version = &mut model.versions[index];
    version.updated_ms = now;
    version
}

fn missing(kind: &str, name: &str) -> Fault {
    Fault::Missing(format!("there is no {kind} {name:?}"))
}

fn check_free(is_taken: bool, kind: &str, name: &str) -> Result<(), Fault> {
    if is_taken {
        return Err(Fault::Exists(format!("there is a {kind} {name:?} already")));
    }
    Ok(())
}

fn set(texts: &mut Texts, key: String, value: Option<String>) -> Result<(), Fault> {
    match value {
        None => drop(texts.remove(&key)),
        Some(value) => {
            check_texts([("key", key.as_str()), ("value", value.as_str())])?;
            texts.insert(key, value);
        }
    }
    check_count(texts.len(), "entries")
}

fn bounded(texts: Texts) -> Result<Texts, Fault> {
    check_texts(texts.iter().flat_map(|(key, value)| [("key", key.as_str()), ("value", value.as_str())]))?;
    check_count(texts.len(), "tags")?;
    Ok(texts)
}

fn check_texts<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<(), Fault> {
    for (what, text) in texts {
        if text.len() > MAX_TRACKED_TEXT_BYTES {
            let length = text.len();
            return Err(Fault::Invalid(format!(
                "a {what} has at most {MAX_TRACKED_TEXT_BYTES} bytes, this one {length}"
            )));
        }
    }
    Ok(())
}

fn check_count(count: usize, what: &str) -> Result<(), Fault> {
    if count <= MAX_TRACKED_ENTRIES {
        return Ok(());
    }
    Err(Fault::Invalid(format!("there can be {MAX_TRACKED_ENTRIES} {what}, not {count}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(pairs: &[(&str, &str)]) -> Texts {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn tracking() -> Tracking {
        let mut tracking = Tracking::default();
        for act in [
            Act::CreateExperiment { id: DEFAULT_EXPERIMENT.into(), name: "Default".into(), tags: Texts::new() },
            Act::CreateRun {
                id: "r".into(),
                experiment: DEFAULT_EXPERIMENT.into(),
                name: "calm".into(),
                user: "Ada".into(),
                started_ms: 1,
                tags: texts(&[("a", "1")]),
            },
            Act::CreateModel { name: "m".into(), description: String::new(), tags: Texts::new() },
        ] {
            let deed = tracking.perform(5, act).expect("it makes sense");
            tracking.apply(deed);
        }
        tracking
    }

    fn log(id: &str, params: &[(&str, &str)], metrics: &[(&str, f64, i64)]) -> Act {
        let point = |value, step| Point { value, timestamp: 10 * step, step };
        let metrics = metrics.iter().map(|(key, value, step)| ((*key).to_owned(), point(*value, *step))).collect();
        Act::Log { id: id.to_owned(), params: texts(params), tags: Texts::new(), metrics }
    }

    #[test]
    fn a_run_keeps_the_newest_of_each_figure_and_every_point_for_its_history() {
        let mut tracking = tracking();
        let deed =
            tracking.perform(6, log("r", &[("lr", "0.1")], &[("loss", 0.5, 2), ("loss", 0.9, 1)])).expect("logs");
        assert_eq!(deed.points.len(), 2);
        tracking.apply(deed);
        assert_eq!(tracking.run("r").map(|run| run.metrics["loss"].value), Some(0.5));
        let other = tracking.perform(7, log("r", &[("lr", "0.2")], &[])).expect_err("it was told another");
        assert!(matches!(other, Fault::Invalid(_)));
        assert!(tracking.perform(7, log("r", &[("lr", "0.1")], &[])).is_ok(), "the same again is no change");
        assert!(matches!(tracking.perform(7, log("x", &[], &[])), Err(Fault::Missing(_))));
    }

    #[test]
    fn versions_have_numbers_of_their_own_and_aliases_go_with_them() {
        let mut tracking = tracking();
        let create = || Act::CreateVersion {
            name: "m".into(),
            source: "mlflow-artifacts:/0/r/artifacts/m".into(),
            run: "r".into(),
            description: String::new(),
            user: "Ada".into(),
            tags: Texts::new(),
        };
        for act in [
            create(),
            create(),
            Act::SetAlias { name: "m".into(), alias: "prod".into(), version: Some(2) },
            Act::DeleteVersion { name: "m".into(), version: 2 },
            create(),
        ] {
            let deed = tracking.perform(9, act).expect("it makes sense");
            tracking.apply(deed);
        }
        let model = tracking.model("m").expect("there");
        assert_eq!(model.versions.iter().map(|version| version.version).collect::<Vec<_>>(), [1, 3]);
        assert!(model.aliases.is_empty());
        let again = Act::CreateModel { name: "m".into(), description: String::new(), tags: Texts::new() };
        assert!(matches!(tracking.perform(9, again), Err(Fault::Exists(_))));
        let gone = Act::DeleteVersion { name: "m".into(), version: 2 };
        assert!(matches!(tracking.perform(9, gone), Err(Fault::Missing(_))));
    }

    #[test]
    fn names_are_given_once_and_what_is_thrown_away_gives_its_own_up() {
        let mut tracking = tracking();
        let create = |id: &str| Act::CreateExperiment { id: id.into(), name: "pumps".into(), tags: Texts::new() };
        let bin = |id: &str, is_deleted| Act::SetExperimentDeleted { id: id.into(), is_deleted };
        for act in [create("1"), bin("1", true), create("2")] {
            let deed = tracking.perform(9, act).expect("it makes sense");
            tracking.apply(deed);
        }
        assert!(matches!(tracking.perform(9, bin("1", false)), Err(Fault::Exists(_))));
        assert!(matches!(tracking.perform(9, bin(DEFAULT_EXPERIMENT, true)), Err(Fault::Invalid(_))));
        let rename = |id: &str| Act::RenameExperiment { id: id.into(), name: "pumps".into() };
        assert!(matches!(tracking.perform(9, rename(DEFAULT_EXPERIMENT)), Err(Fault::Exists(_))));
        let moved = Act::RenameModel { name: "m".into(), new_name: "n".into() };
        let deed = tracking.perform(9, moved).expect("it makes sense");
        tracking.apply(deed);
        assert!(tracking.model("m").is_none() && tracking.model("n").is_some());
    }

    #[test]
    fn a_run_that_is_thrown_away_makes_room_for_another_where_there_is_none() {
        let mut tracking = tracking();
        let create = |id: &str| Act::CreateRun {
            id: id.into(),
            experiment: DEFAULT_EXPERIMENT.into(),
            name: "n".into(),
            user: "Ada".into(),
            started_ms: 9,
            tags: Texts::new(),
        };
        for number in 1..MAX_TRACKED {
            let deed = tracking.perform(9, create(&number.to_string())).expect("there is room");
            tracking.apply(deed);
        }
        assert!(matches!(tracking.perform(9, create("one more")), Err(Fault::Invalid(_))));
        for act in [Act::SetRunDeleted { id: "r".into(), is_deleted: true }, create("one more")] {
            let deed = tracking.perform(9, act).expect("it makes sense");
            tracking.apply(deed);
        }
        assert!(tracking.run("r").is_none() && tracking.run("one more").is_some());
    }

    #[test]
    fn nothing_grows_without_end() {
        let tracking = tracking();
        let long = "x".repeat(MAX_TRACKED_TEXT_BYTES + 1);
        assert!(matches!(tracking.perform(9, log("r", &[("lr", &long)], &[])), Err(Fault::Invalid(_))));
        let names: Vec<String> = (0..=MAX_TRACKED_ENTRIES).map(|number| format!("p{number}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        assert!(matches!(tracking.perform(9, log("r", &many, &[])), Err(Fault::Invalid(_))));
    }

    #[test]
    fn a_figure_that_is_no_number_is_kept_as_what_it_is() {
        let point = Point { value: f64::NAN, timestamp: 1, step: 2 };
        let text = serde_json::to_string(&point).expect("writes");
        assert_eq!(text, r#"{"value":"NaN","timestamp":1,"step":2}"#);
        assert!(serde_json::from_str::<Point>(&text).is_ok_and(|read| read.value.is_nan()));
        let infinite: Point = serde_json::from_str(r#"{"value":"-Infinity","timestamp":1,"step":2}"#).expect("reads");
        assert_eq!(infinite.value, f64::NEG_INFINITY);
    }
}
