//! What callers of the HTTP interface look up beside the hub's loop: readings and packages.

use shared::package::DataRange;
use tokio::sync::oneshot;

use super::Hub;
use crate::api::Window;
use crate::samples::window::{Part, Spread, Windowed};
use crate::view::{ChannelReadings, ReadingsView, Timestamp};

/// Lookups at once: each reads files, and takes a thread while it decodes them.
const MAX_LOOKUPS: usize = 16;

impl Hub {
    /// Reads what a plot shows.
    pub(super) fn read_readings(&mut self, window: Window, answer: oneshot::Sender<Result<ReadingsView, String>>) {
        let samples = self.samples.clone();
        self.look_up(answer, async move {
            let Window { agent, stream, from_ms, to_ms, parts } = window;
            let range = DataRange { agent, stream, from_ms, to_ms, rows: 0 };
            let windowed = samples.window(&range, parts).await.map_err(|error| format!("failed to {error}"))?;
            Ok(show(&range, &windowed))
        });
    }

    /// Does it in a task of its own, unless too much is looked up already.
    pub(super) fn look_up<T: Send + 'static>(
        &mut self,
        mut answer: oneshot::Sender<Result<T, String>>,
        lookup: impl Future<Output = Result<T, String>> + Send + 'static,
    ) {
        let is_full = self.lookups.len() >= MAX_LOOKUPS;
        self.lookups.spawn(async move {
            let found = if is_full {
                Err("too much is looked up at once; try again".to_owned())
            } else {
                tokio::select! {
                    found = lookup => found,
                    // Whoever asked has gone.
                    () = answer.closed() => return,
                }
            };
            drop(answer.send(found));
        });
    }
}

fn show(range: &DataRange, windowed: &Windowed) -> ReadingsView {
    let parts = || windowed.parts.values();
    let channel = |index: usize, of: fn(&Spread) -> f64| {
        let value = move |part: &Part| part.channels.get(index).filter(|spread| spread.count > 0).map(of);
        parts().map(value).collect::<Vec<Option<f64>>>()
    };
    let channels = windowed.channels.iter().enumerate().map(|(index, name)| ChannelReadings {
        channel: name.clone(),
        min: channel(index, |spread| spread.min),
        max: channel(index, |spread| spread.max),
        mean: channel(index, |spread| spread.sum / spread.count as f64),
    });
    ReadingsView {
        agent: range.agent.clone(),
        stream: range.stream.clone(),
        from: Timestamp(range.from_ms),
        to: Timestamp(range.to_ms),
        part_ms: windowed.part_ms,
        readings: parts().map(|part| part.readings).sum(),
        channels_changed: windowed.channels_changed,
        times_ms: windowed.parts.keys().copied().collect(),
        counts: parts().map(|part| part.readings).collect(),
        known_normal: parts().map(|part| part.known_normal).collect(),
        channels: channels.collect(),
        score: parts().map(|part| part.score.map(|(score, _)| score.into())).collect(),
        threshold: parts().map(|part| part.score.map(|(_, threshold)| threshold.into())).collect(),
        anomalous: parts().map(|part| part.anomalous).collect(),
        version: parts().map(|part| part.version).collect(),
        label: parts().map(|part| part.label.clone()).collect(),
    }
}
