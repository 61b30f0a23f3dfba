//! A scenario file, checked: what to read and how, with the place of every mistake in the file.

use std::path::{Path, PathBuf};

use shared::ids::{ChannelName, StreamId};
use shared::limits::MAX_CHANNELS;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Purpose;
use super::document::{Checker, Document, Table};
use super::problems::{Problem, Problems, choices, shown};
use super::table::Layout;
use super::times::TimeFormat;

const SCENARIO_KEYS: [&str; 10] = [
    "name",
    "description",
    "root",
    "delimiter",
    "time_column",
    "time_format",
    "channels",
    "label_column",
    "stream",
    "phase",
];
const PHASE_KEYS: [&str; 4] = ["name", "files", "use", "calibration_rows"];

/// What a scenario file asks for.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) description: String,
    pub(super) stream: StreamId,
    /// The folder of the files, as the scenario writes it.
    pub(super) root: String,
    pub(super) layout: Layout,
    pub(super) phases: Vec<PlannedPhase>,
}

/// What a scenario file asks for in one phase.
#[derive(Debug)]
pub(super) struct PlannedPhase {
    pub(super) name: String,
    pub(super) purpose: Purpose,
    pub(super) calibration: Calibration,
    pub(super) files: Vec<PlannedFile>,
    /// Where the file says the purpose, and the calibration rows.
    purpose_at: usize,
    calibration_at: usize,
}

/// Rows at the head of a file that are known to be normal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Calibration {
    /// All rows.
    All,
    /// That many, or all if there are fewer.
    Head(usize),
}

impl Calibration {
    /// How many that is of a file of `rows` rows.
    pub(super) fn rows_of(self, rows: usize) -> usize {
        match self {
            Self::All => rows,
            Self::Head(head) => head.min(rows),
        }
    }
}

/// One file and where the scenario names it.
#[derive(Debug)]
pub(super) struct PlannedFile {
    /// The name as the scenario writes it.
    pub(super) name: String,
    pub(super) path: PathBuf,
    place: Problem,
}

impl PlannedFile {
    /// A problem at the place that names the file.
    pub(super) fn problem(&self, what: String) -> Problem {
        Problem { what, ..self.place.clone() }
    }
}

/// Checks the text of a scenario file. `None` if too much is wrong with it to look at the data files; if something
/// is wrong it is among `problems`.
pub(super) fn parse(document: &Document<'_>, problems: &mut Problems) -> Option<Plan> {
    let (table, errors) = DeTable::parse_recoverable(document.text);
    if !errors.is_empty() {
        for error in errors {
            let offset = error.span().map_or(0, |span| span.start);
            problems.push(document.problem(offset, format!("this is not TOML: {}", error.message())));
        }
        return None;
    }
    let mut found = Vec::new();
    let plan = Checker { document, found: &mut found }.plan(table.get_ref());
    found.sort_by_key(|(offset, _)| *offset);
    found.into_iter().for_each(|(offset, what)| problems.push(document.problem(offset, what)));
    plan
}

impl Checker<'_> {
    fn plan(&mut self, entries: &DeTable<'_>) -> Option<Plan> {
        let table = Table { entries, offset: 0, what: "the scenario" };
        self.refuse_unknown_keys(table, &SCENARIO_KEYS);
        let name = self.text(table, "name");
        let description = self.text(table, "description");
        let root = self.root(table);
        let stream = self.text(table, "stream").and_then(|text| self.checked(&text, StreamId::new));
        let layout = self.layout(table);
        let folder = root.as_ref().map(|(_, folder)| folder.clone());
        let phases = self.phases(table, &folder.unwrap_or_default());
        let plan = Plan {
            name: name?.into_inner().to_owned(),
            description: description?.into_inner().to_owned(),
            stream: stream?,
            root: root?.0,
            layout: layout?,
            phases: phases?,
        };
        self.check_phases(&plan);
        Some(plan)
    }

    /// The folder of the files: as written, and as a path.
    fn root(&mut self, table: Table<'_>) -> Option<(String, PathBuf)> {
        let root = self.text(table, "root")?;
        let beside = self.document.path.parent().unwrap_or(Path::new(""));
        let folder = beside.join(root.get_ref());
        if !folder.is_dir() {
            let what = format!("there is no folder {}; write `root` relative to this file", folder.display());
            self.wrong(root.span(), what);
            return None;
        }
        Some(((*root.get_ref()).to_owned(), folder))
    }

    fn layout(&mut self, table: Table<'_>) -> Option<Layout> {
        let delimiter = self.delimiter(table);
        let time_column = self.text(table, "time_column");
        let time_format = self.text(table, "time_format").and_then(|text| self.time_format(&text));
        let label_column = match table.entries.contains_key("label_column") {
            true => Some(self.text(table, "label_column")?),
            false => None,
        };
        let channels = self.channels(table)?;
        for (role, column) in [("time_column", &time_column), ("label_column", &label_column)] {
            let Some(column) = column else { continue };
            if let Some(channel) = channels.iter().find(|channel| channel.get_ref().as_str() == *column.get_ref()) {
                let what = format!("{} is the {role}; a channel is a measured number", shown(column.get_ref()));
                self.wrong(channel.span(), what);
            }
        }
        Some(Layout {
            delimiter: delimiter?,
            time_column: time_column?.into_inner().to_owned(),
            time_format: time_format?,
            channels: channels.into_iter().map(Spanned::into_inner).collect(),
            label_column: label_column.map(|column| column.into_inner().to_owned()),
        })
    }

    fn delimiter(&mut self, table: Table<'_>) -> Option<char> {
        let text = self.text(table, "delimiter")?;
        let mut letters = text.get_ref().chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) if !matches!(letter, '"' | '\r' | '\n') => Some(letter),
            (Some(_), _) | (None, _) => {
                let what = format!(
                    "delimiter is {}; write one character that is no quote and no line end, like \";\" or \",\"",
                    shown(text.get_ref())
                );
                self.wrong(text.span(), what);
                None
            }
        }
    }

    fn time_format(&mut self, text: &Spanned<&str>) -> Option<TimeFormat> {
        let format = TimeFormat::new(text.get_ref());
        format
            .map_err(|problem| {
                let what = format!(
                    "time_format {} {problem}; write a strftime format like `%Y-%m-%d %H:%M:%S`",
                    shown(text.get_ref())
                );
                self.wrong(text.span(), what);
            })
            .ok()
    }

    fn channels(&mut self, table: Table<'_>) -> Option<Vec<Spanned<ChannelName>>> {
        let names = self.texts(table, "channels")?;
        if names.len() > MAX_CHANNELS {
            let what = format!("there are {} channels, at most {MAX_CHANNELS} are allowed; name fewer", names.len());
            self.wrong(names[MAX_CHANNELS].span(), what);
            return None;
        }
        let mut channels: Vec<Spanned<ChannelName>> = Vec::with_capacity(names.len());
        let mut are_good = true;
        for name in &names {
            match self.checked(name, ChannelName::new) {
                Some(channel) if channels.iter().any(|earlier| *earlier.get_ref() == channel) => {
                    let what = format!("channel {} is named twice; name each channel once", shown(channel.as_str()));
                    self.wrong(name.span(), what);
                }
                Some(channel) => channels.push(Spanned::new(name.span(), channel)),
                None => are_good = false,
            }
        }
        are_good.then_some(channels)
    }

    fn phases(&mut self, table: Table<'_>, folder: &Path) -> Option<Vec<PlannedPhase>> {
        let value = self.value(table, "phase")?;
        let DeValue::Array(phases) = value.get_ref() else {
            return self.wrong_type(value, "phase", "write [[phase]] above each phase's keys");
        };
        let read: Vec<_> = phases.iter().map(|phase| self.phase(phase, folder)).collect();
        read.into_iter().collect()
    }

    fn phase(&mut self, value: &Spanned<DeValue<'_>>, folder: &Path) -> Option<PlannedPhase> {
        let DeValue::Table(entries) = value.get_ref() else {
            return self.wrong_type(value, "phase", "write [[phase]] above each phase's keys");
        };
        let table = Table { entries, offset: value.span().start, what: "the phase" };
        self.refuse_unknown_keys(table, &PHASE_KEYS);
        let name = self.text(table, "name");
        let files = self.texts(table, "files");
        let purpose = self.purpose(table);
        let calibration = self.calibration(table);
        let files = files?.into_iter().map(|file| self.file(&file, folder)).collect();
        let (purpose, purpose_at) = purpose?;
        let (calibration, calibration_at) = calibration?;
        Some(PlannedPhase {
            name: name?.into_inner().to_owned(),
            purpose,
            calibration,
            files,
            purpose_at,
            calibration_at,
        })
    }

    fn file(&self, name: &Spanned<&str>, folder: &Path) -> PlannedFile {
        PlannedFile {
            name: (*name.get_ref()).to_owned(),
            path: folder.join(name.get_ref()),
            place: self.document.problem(name.span().start, String::new()),
        }
    }

    fn purpose(&mut self, table: Table<'_>) -> Option<(Purpose, usize)> {
        let text = self.text(table, "use")?;
        match Purpose::ALL.into_iter().find(|purpose| purpose.as_str() == *text.get_ref()) {
            Some(purpose) => Some((purpose, text.span().start)),
            None => {
                let known = choices(text.get_ref(), Purpose::ALL.into_iter().map(Purpose::as_str));
                self.wrong(text.span(), format!("use is {}; write one of {known}", shown(text.get_ref())));
                None
            }
        }
    }

    fn calibration(&mut self, table: Table<'_>) -> Option<(Calibration, usize)> {
        const RIGHT: &str = "write a whole number of rows, 0 for none or -1 for all";
        let value = self.value(table, "calibration_rows")?;
        let DeValue::Integer(rows) = value.get_ref() else {
            return self.wrong_type(value, "calibration_rows", RIGHT);
        };
        let calibration = match i64::from_str_radix(rows.as_str(), rows.radix()).ok() {
            Some(-1) => Some(Calibration::All),
            Some(rows) => usize::try_from(rows).ok().map(Calibration::Head),
            None => None,
        };
        if calibration.is_none() {
            self.wrong(value.span(), format!("calibration_rows is out of range; {RIGHT}"));
        }
        Some((calibration?, value.span().start))
    }

    /// What only the phases together can have wrong.
    fn check_phases(&mut self, plan: &Plan) {
        for (earlier, later) in plan.phases.iter().zip(plan.phases.iter().skip(1)) {
            if later.purpose < earlier.purpose {
                let what = format!(
                    "phase {} ({}) comes after phase {} ({}); put phases in the order baseline, live, evaluate",
                    shown(&later.name),
                    later.purpose,
                    shown(&earlier.name),
                    earlier.purpose
                );
                self.note(later.purpose_at, what);
            }
        }
        self.check_baseline(plan);
        let evaluated = plan.phases.iter().find(|phase| phase.purpose == Purpose::Evaluate);
        match (evaluated, &plan.layout.label_column) {
            (None, _) => {
                let what = "no phase has use = \"evaluate\"; add a [[phase]] to score at the end";
                self.note(0, what.to_owned());
            }
            (Some(phase), None) => {
                let what = format!(
                    "phase {} is evaluated, but there is no label_column; name the column that says what is anomalous",
                    shown(&phase.name)
                );
                self.note(phase.purpose_at, what);
            }
            (Some(_), Some(_)) => {}
        }
    }

    fn check_baseline(&mut self, plan: &Plan) {
        let mut baselines = plan.phases.iter().filter(|phase| phase.purpose == Purpose::Baseline).peekable();
        match baselines.peek() {
            None => {
                let what = "no phase has use = \"baseline\"; add a [[phase]] at the start to train version 1 on";
                self.note(0, what.to_owned());
            }
            Some(first) => {
                let (name, offset) = (shown(&first.name), first.calibration_at);
                if baselines.all(|phase| phase.calibration == Calibration::Head(0)) {
                    let what = format!(
                        "baseline {name} has no known-normal rows to train version 1 on; write -1 if all rows are normal"
                    );
                    self.note(offset, what);
                }
            }
        }
    }
}
