//! The world: lets one thing after another happen, disturbs it by plan, and lets it come to rest.

mod rest;

use cloud_hub::core::rollout::Wish;
use edge_agent::core::{Event as EdgeEvent, Millis};
use shared::seglog::fake::Trouble;
use shared::wire::message::EdgeToHub;

use super::broker::{Content, STREAMS};
use super::bugs::Bug;
use super::edge::{EdgeBox, Seen};
use super::errors;
use super::faults::{self, Climate, Fault, Planned};
use super::hub::{Hub, Said};
use super::link::Command;
use super::models::Nature;
use super::random::Random;
use super::report::Tally;
use super::rollouts::Rollouts;
use super::truth::{Truth, Violation};

/// Steps of a world, before it comes to rest.
pub const STEPS: usize = 1_500;
/// A connection that says nothing for so long is dead, as QUIC's idle timeout has it.
const IDLE_TIMEOUT_MS: u64 = 60_000;
/// Time in which the hub is shown what comes in behind a backlog: twice the interval between two pictures.
const SHOWN_WITHIN_MS: u64 = 500;

/// A world.
pub struct World {
    random: Random,
    now: Millis,
    step: usize,
    boxes: Vec<EdgeBox>,
    hub: Hub,
    truth: Truth,
    rollouts: Rollouts,
    climate: Climate,
    plan: Vec<Planned>,
    /// Things that end at a step.
    ending: Vec<(usize, Ending)>,
    half_open_since: Vec<Option<Millis>>,
    published: u64,
    named: Vec<Vec<Content>>,
    tally: Tally,
}

#[derive(Debug, Clone, Copy)]
enum Ending {
    Partition(usize),
    HubAway,
    DiskTrouble(usize),
    HubDiskTrouble,
    DiskFull(usize),
}

/// What became of a world.
#[derive(Debug)]
pub struct Outcome {
    /// What happened in it.
    pub tally: Tally,
    /// Where and how it broke, if it did.
    pub violation: Option<(usize, String)>,
}

/// Lets a world live. Without a plan of its own it has the faults of its seed.
#[must_use]
pub fn live(seed: u64, plan: Option<Vec<Planned>>, bug: Option<Bug>) -> Outcome {
    drop(errors::take());
    let mut world = World::new(seed, plan, bug);
    let result = world.run();
    let step = world.step;
    world.tally.disk_faults += world.boxes.iter().map(|edge| edge.disk.faults()).sum::<u64>() + world.hub.disk.faults();
    Outcome { tally: world.tally, violation: result.err().map(|violation| (step, violation)) }
}

/// How many boxes a world has.
#[must_use]
pub fn boxes(seed: u64) -> usize {
    1 + (seed / 3 % 3) as usize
}

impl World {
    fn new(seed: u64, plan: Option<Vec<Planned>>, bug: Option<Bug>) -> Self {
        let climate = Climate::of(seed);
        let count = boxes(seed);
        let mut truth = Truth::new(count);
        let boxes: Vec<EdgeBox> = (0..count)
            .map(|index| {
                let mut seen = Vec::new();
                let seed = Random::new(seed ^ (index as u64 + 1) << 32).draw();
                let edge = EdgeBox::new(index, seed, climate.is_cramped, bug, &mut seen);
                drop(truth.seen(index, seen));
                edge
            })
            .collect();
        Self {
            random: Random::new(seed),
            now: Millis(0),
            step: 0,
            boxes,
            hub: Hub::new(seed, climate.rolls_out, bug),
            truth,
            rollouts: Rollouts::default(),
            climate,
            plan: plan.unwrap_or_else(|| faults::plan(seed, climate, STEPS, count)),
            ending: Vec::new(),
            half_open_since: vec![None; count],
            published: 0,
            named: vec![Vec::new(); count],
            tally: Tally::default(),
        }
    }

    fn run(&mut self) -> Result<(), Violation> {
        while self.step < STEPS {
            self.step += 1;
            self.tally.steps += 1;
            self.end_what_ends();
            while let Some(planned) = self.plan.first().copied().filter(|planned| planned.step <= self.step) {
                self.plan.remove(0);
                self.disturb(planned)?;
            }
            let at = self.random.below(self.boxes.len());
            self.happen(at)?;
            self.check(at)?;
            self.check_errors()?;
        }
        self.settle()
    }

    /// Lets one thing happen.
    fn happen(&mut self, at: usize) -> Result<(), Violation> {
        let most = 1 + self.random.below(8);
        match self.random.below(100) {
            0..18 => self.publish(at),
            18..28 => {
                let most = self.random.below(100);
                self.boxes[at].receive(most, &mut self.random);
                self.broker_works(at, most);
            }
            28..40 => {
                let most = 1 + self.random.below(256);
                self.with_box(at, |edge, now, seen| edge.take_messages(now, most, seen))?;
            }
            40..50 => self.disk_works(at)?,
            50..53 => self.boxes[at].work_state(),
            53..62 => self.link_works(at)?,
            62..74 => self.with_box(at, |edge, now, seen| edge.report(now, most, seen))?,
            74..80 => self.hub.work_disk(&mut self.random),
            80..86 => self.hub_reports(most)?,
            86..88 => self.hub.compact(),
            88..92 => self.with_box(at, |edge, _, _| edge.infer())?,
            _ => self.let_time_pass(at)?,
        }
        Ok(())
    }

    fn publish(&mut self, at: usize) {
        let most = if self.random.percent(10) { 120 } else { 8 };
        for _ in 0..self.random.below(most) {
            let content = match self.random.below(20) {
                0 => Content::Bad,
                1 if !self.named[at].is_empty() => {
                    // A restarted agent knows what its spool still holds, which is little where spools are small.
                    let newest = self.named[at].len().min(if self.climate.is_cramped { 12 } else { 200 });
                    self.named[at][self.named[at].len() - 1 - self.random.below(newest)]
                }
                _ => self.new_reading(at),
            };
            self.boxes[at].broker.publish(content);
        }
    }

    fn new_reading(&mut self, at: usize) -> Content {
        self.published += 1;
        let (id, stream) = (self.published, self.random.below(STREAMS));
        let named = self.random.percent(50);
        let content = Content::Reading { stream, id, named };
        if named {
            self.named[at].push(content);
        }
        self.truth.published(at, id, stream);
        content
    }

    fn broker_works(&mut self, at: usize, most: usize) {
        for content in self.boxes[at].broker.work(most) {
            if let Content::Reading { id, .. } = content {
                self.truth.acknowledged(at, id);
            }
        }
    }

    fn disk_works(&mut self, at: usize) -> Result<(), Violation> {
        let random = &mut self.random;
        let mut seen = Vec::new();
        self.boxes[at].work_disk(random, &mut seen);
        self.tally.drops += seen.iter().filter(|seen| matches!(seen, Seen::Dropped)).count() as u64;
        self.truth.seen(at, seen)?;
        self.truth.durable(at, &self.boxes[at]);
        let (used, limit) = (self.boxes[at].disk.used() as u64, self.boxes[at].spool_limit());
        if used > limit {
            return Err(format!("{}: the spool takes {used} bytes, {limit} were promised", self.boxes[at].name));
        }
        Ok(())
    }

    fn link_works(&mut self, at: usize) -> Result<(), Violation> {
        let now = self.now.0 as i64;
        let mut said = Vec::new();
        for _ in 0..=self.random.below(4) {
            self.run_command(at, &mut said);
            for _ in 0..self.random.below(4) {
                let link = &mut self.boxes[at].link;
                let (Some(connection), Some(message)) = (link.connection, link.to_hub.pop_front()) else {
                    break;
                };
                self.tally.entries += u64::from(matches!(message, EdgeToHub::Entry(_)));
                self.hub.take(now, connection, message, &mut said);
            }
            let link = &mut self.boxes[at].link;
            if let Some(connection) = link.connection
                && let Some(picture) = link.live_lane.pop_front()
            {
                self.tally.pictures += 1;
                self.hub.take(now, connection, picture, &mut said);
            }
            self.hub_said(std::mem::take(&mut said));
            let link = &mut self.boxes[at].link;
            for _ in 0..self.random.below(4).min(link.to_edge.len()) {
                link.answers.extend(link.to_edge.pop_front().map(EdgeEvent::FromHub));
            }
            if link.is_closing && link.to_edge.is_empty() {
                self.cut(at);
            }
        }
        Ok(())
    }

    fn run_command(&mut self, at: usize, said: &mut Vec<Said>) {
        let now = self.now.0 as i64;
        let is_away = self.hub.is_away || self.boxes[at].partitioned;
        let Some(command) = self.boxes[at].link.commands.pop_front() else {
            return;
        };
        let is_connected = self.boxes[at].link.is_connected();
        match command {
            Command::Send(message) => {
                let link = &mut self.boxes[at].link;
                if link.connection.is_some() {
                    link.to_hub.push_back(*message);
                }
            }
            Command::Hangup if is_connected => self.cut(at),
            Command::Dial if is_connected => {}
            Command::Dial if !is_away => {
                let connection = self.hub.connect(now, &self.boxes[at].name.clone(), said);
                let link = &mut self.boxes[at].link;
                link.connection = Some(connection);
                link.answers.push_back(EdgeEvent::LinkUp);
            }
            Command::Dial | Command::Hangup => self.boxes[at].link.answers.push_back(EdgeEvent::LinkDown),
        }
    }

    fn hub_said(&mut self, said: Vec<Said>) {
        for said in said {
            let (Said::Message(connection, _) | Said::Close(connection)) = &said;
            let link =
                self.boxes.iter_mut().map(|edge| &mut edge.link).find(|link| link.connection == Some(*connection));
            match (link, said) {
                (None, _) => {}
                (Some(link), Said::Message(_, message)) => link.to_edge.push_back(message),
                (Some(link), Said::Close(_)) => link.is_closing = true,
            }
        }
    }

    /// A connection breaks, and both ends learn of it.
    fn cut(&mut self, at: usize) {
        self.half_open_since[at] = None;
        if let Some(connection) = self.boxes[at].link.cut(&mut self.random) {
            self.hub_forgets(connection);
        }
    }

    fn hub_forgets(&mut self, connection: cloud_hub::core::ConnectionId) {
        let mut said = Vec::new();
        self.hub.disconnected(self.now.0 as i64, connection, &mut said);
        self.hub_said(said);
    }

    fn hub_reports(&mut self, most: usize) -> Result<(), Violation> {
        let mut said = Vec::new();
        self.hub.report(self.now.0 as i64, most, &mut said);
        self.hub_said(said);
        Ok(())
    }

    fn let_time_pass(&mut self, at: usize) -> Result<(), Violation> {
        let later = match self.random.below(10) {
            0..5 => self.boxes[at].due_at().map_or(0, |due| due.0.saturating_sub(self.now.0)),
            5..9 => self.random.below(50) as u64,
            _ => self.random.below(20_000) as u64,
        };
        self.pass(later)
    }

    fn pass(&mut self, later: u64) -> Result<(), Violation> {
        self.now = self.now.plus(later);
        for at in 0..self.boxes.len() {
            if self.half_open_since[at].is_some_and(|since| since.plus(IDLE_TIMEOUT_MS) <= self.now) {
                self.cut(at);
            }
            self.with_box(at, |edge, now, seen| edge.handle(now, EdgeEvent::Tick, seen))?;
        }
        let mut said = Vec::new();
        self.hub.tick(self.now.0 as i64, &mut said);
        self.hub_said(said);
        Ok(())
    }

    /// Does something with a box, and starts its agent again if that killed it.
    fn with_box(&mut self, at: usize, act: impl FnOnce(&mut EdgeBox, Millis, &mut Vec<Seen>)) -> Result<(), Violation> {
        let mut seen = Vec::new();
        act(&mut self.boxes[at], self.now, &mut seen);
        self.tally.shed += seen.iter().map(Seen::shed).sum::<u64>();
        self.truth.seen(at, seen)?;
        if self.boxes[at].is_dead() {
            self.kill(at, false)?;
        }
        Ok(())
    }

    fn disturb(&mut self, planned: Planned) -> Result<(), Violation> {
        let Planned { at, fault, .. } = planned;
        let until = |steps: u16| self.step + usize::from(steps);
        match fault {
            Fault::Kill => self.kill(at, false)?,
            Fault::PowerCut => self.kill(at, true)?,
            Fault::KillSoon(effects) => self.boxes[at].killed_after = Some(effects + 1),
            Fault::Cut => {
                self.tally.partitions += 1;
                self.cut(at);
            }
            Fault::Partition(steps) => {
                self.tally.partitions += 1;
                self.ending.push((until(steps), Ending::Partition(at)));
                self.boxes[at].partitioned = true;
                self.cut(at);
            }
            Fault::HalfOpen => {
                self.tally.partitions += 1;
                if let Some(connection) = self.boxes[at].link.half_open() {
                    self.half_open_since[at] = Some(self.now);
                    self.hub_forgets(connection);
                }
            }
            Fault::HubKill => self.restart_hub(false)?,
            Fault::HubPowerCut => self.restart_hub(true)?,
            Fault::HubAway(steps) => {
                self.tally.partitions += 1;
                self.ending.push((until(steps), Ending::HubAway));
                self.hub.is_away = true;
                (0..self.boxes.len()).for_each(|at| self.cut(at));
            }
            Fault::BrokerRestart => {
                self.boxes[at].broker.disconnect();
                self.boxes[at].broker.connect();
            }
            Fault::DiskTrouble(steps) => {
                self.ending.push((until(steps), Ending::DiskTrouble(at)));
                self.boxes[at].disk.trouble(Trouble {
                    failed_appends: 20,
                    failed_syncs: 20,
                    failed_reads: 20,
                    failed_names: 20,
                });
            }
            Fault::HubDiskTrouble(steps) => {
                self.ending.push((until(steps), Ending::HubDiskTrouble));
                self.hub.disk.trouble(Trouble {
                    failed_appends: 20,
                    failed_syncs: 20,
                    failed_reads: 20,
                    failed_names: 20,
                });
            }
            Fault::DiskFull(steps) => {
                self.ending.push((until(steps), Ending::DiskFull(at)));
                let used = self.boxes[at].disk.used();
                self.boxes[at].disk.set_capacity(used + self.random.below(2_000));
            }
            Fault::Rot => {
                self.truth.lost_count(at);
                drop(self.boxes[at].disk.rot());
            }
            Fault::RotTailAndPowerCut => {
                self.truth.lost_count(at);
                self.boxes[at].rot_tail();
                self.kill(at, true)?;
            }
            Fault::LoseSpool => {
                self.truth.lost_media(at);
                self.boxes[at].lose_spool();
                self.kill(at, true)?;
            }
            Fault::LoseState => {
                self.truth.lost_count(at);
                self.boxes[at].lose_state();
                self.kill(at, false)?;
            }
            Fault::Backup => self.boxes[at].back_up(),
            Fault::Restore(steps) => {
                if self.boxes[at].restore() {
                    self.truth.restored(at);
                    self.ending.push((until(steps), Ending::Partition(at)));
                    self.boxes[at].partitioned = true;
                    self.kill(at, false)?;
                }
            }
            Fault::HubBackup => self.hub.back_up(),
            Fault::HubRestore => {
                if self.hub.restore() {
                    self.truth.hub_restored();
                    self.restart_hub(false)?;
                }
            }
            Fault::ClockJump(minutes) => self.boxes[at].clock_error_ms += i64::from(minutes) * 60_000,
            Fault::LongSilence(minutes) => self.pass(u64::from(minutes) * 60_000)?,
            Fault::Release(number) => {
                self.tally.releases += 1;
                let mut said = Vec::new();
                // Every other version is a good one.
                let nature = if number % 2 == 0 {
                    Nature::Good
                } else {
                    Nature::ALL[usize::from(number / 2) % Nature::ALL.len()]
                };
                self.hub.release(self.now.0 as i64, nature, &mut said);
                self.hub_said(said);
            }
            Fault::Wish(number) => self.wish([Wish::Pause, Wish::Resume, Wish::Abort][usize::from(number) % 3]),
        }
        Ok(())
    }

    fn wish(&mut self, wish: Wish) {
        let mut said = Vec::new();
        self.hub.wish(self.now.0 as i64, wish, &mut said);
        self.hub_said(said);
    }

    fn end_what_ends(&mut self) {
        let step = self.step;
        let (ended, lasting) = self.ending.iter().partition(|(until, _)| *until <= step);
        self.ending = lasting;
        let ended: Vec<(usize, Ending)> = ended;
        ended.into_iter().for_each(|(_, ending)| self.end(ending));
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Partition(at) => self.boxes[at].partitioned = false,
            Ending::HubAway => self.hub.is_away = false,
            Ending::DiskTrouble(at) => self.boxes[at].disk.trouble(Trouble::default()),
            Ending::HubDiskTrouble => self.hub.disk.trouble(Trouble::default()),
            Ending::DiskFull(at) => self.boxes[at].disk.set_capacity(1 << 30),
        }
    }

    /// Kills an agent and starts it again. A disk in trouble is mended meanwhile, or it would not start.
    fn kill(&mut self, at: usize, power: bool) -> Result<(), Violation> {
        self.tally.crashes += 1;
        if let Some(connection) = self.boxes[at].link.crash() {
            self.hub_forgets(connection);
        }
        self.half_open_since[at] = None;
        if power {
            self.boxes[at].die();
            self.boxes[at].disk.crash();
        } else {
            self.boxes[at].die_writing();
        }
        self.end(Ending::DiskTrouble(at));
        self.end(Ending::DiskFull(at));
        let mut seen = Vec::new();
        self.boxes[at].boot(self.now, &mut seen);
        self.truth.seen(at, seen)?;
        self.rollouts.check(&self.boxes[at], &self.hub)?;
        self.truth.check_boot(at, &self.boxes[at], &self.hub.entries())
    }

    fn restart_hub(&mut self, power: bool) -> Result<(), Violation> {
        self.tally.crashes += 1;
        for at in 0..self.boxes.len() {
            self.half_open_since[at] = None;
            self.boxes[at].link.cut(&mut self.random);
        }
        if power {
            self.hub.disk.crash();
        }
        self.end(Ending::HubDiskTrouble);
        self.hub.restart();
        self.truth.check_hub(&self.boxes, &self.hub.entries())
    }

    /// Nothing is logged as an error where no disk fails.
    fn check_errors(&self) -> Result<(), Violation> {
        let has_faults = self.hub.disk.faults() + self.boxes.iter().map(|edge| edge.disk.faults()).sum::<u64>() > 0;
        match errors::take() {
            Some(error) if !has_faults && !self.climate.rots => Err(format!("an error was logged: {error}")),
            Some(_) | None => Ok(()),
        }
    }

    fn check(&mut self, at: usize) -> Result<(), Violation> {
        self.rollouts.check(&self.boxes[at], &self.hub)?;
        let edge = &self.boxes[at];
        if edge.due_at().is_some_and(|due| due < self.now) && !edge.is_dead() {
            return Err(format!("{}: something is due that was not done", edge.name));
        }
        if edge.unshown_since.is_some_and(|since| since.plus(SHOWN_WITHIN_MS) < self.now) && !edge.is_dead() {
            return Err(format!("{}: what came in is not shown to the hub, which is connected", edge.name));
        }
        Ok(())
    }
}
