//! A stream's values beside what its model was trained on, as they are shown.

use serde::Serialize;
use shared::ids::{AgentId, ChannelName, StreamId};
use utoipa::ToSchema;

use crate::core::HubCore;
use crate::core::drift::DriftWatch;

/// A stream's values beside what its model was trained on, and the same over the boxes of its model.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct HistogramsView {
    /// The box.
    #[schema(value_type = String)]
    pub agent: AgentId,
    /// The stream.
    #[schema(value_type = String)]
    pub stream: StreamId,
    /// The version whose training data it is held against.
    pub against_version: u32,
    /// Streams of the same version, this one among them.
    pub cohort_streams: usize,
    /// Its channels.
    pub channels: Vec<ChannelHistograms>,
}

/// A channel's values in bins. There is a bin below the first edge, and one above the last.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ChannelHistograms {
    /// The channel.
    #[schema(value_type = String)]
    pub channel: ChannelName,
    /// The edges of the bins, ascending.
    pub edges: Vec<f64>,
    /// Shares of the training data by bin.
    pub reference: Vec<f64>,
    /// Shares of what comes in now by bin; old values fade.
    pub now: Vec<f64>,
    /// The same over the streams of the cohort.
    pub cohort: Vec<f64>,
    /// The Jensen-Shannon divergence of `now` from `reference` in bits.
    pub divergence: f64,
    /// The divergence that it should stay below.
    pub threshold: f64,
}

/// Those of a stream; nothing if it is not watched.
#[must_use]
pub fn of(core: &HubCore, agent: &AgentId, stream: &StreamId) -> Option<HistogramsView> {
    let watched = || core.observed().watches();
    let (_, watch) = watched().find(|((a, s), _)| a == agent && s == stream)?;
    let is_alike = |other: &&DriftWatch| other.version() == watch.version() && other.reference() == watch.reference();
    let cohort: Vec<&DriftWatch> = watched().map(|(_, other)| other).filter(is_alike).collect();
    let mut sums: Vec<Vec<f64>> = watch.shares().map(|shares| vec![0.0; shares.len()]).collect();
    for shares in cohort.iter().flat_map(|other| other.shares().enumerate()) {
        let (channel, shares) = shares;
        sums[channel].iter_mut().zip(shares).for_each(|(sum, share)| *sum += share / cohort.len() as f64);
    }
    let of_channels = watch.reference().channels.iter().zip(watch.shares()).zip(sums).zip(watch.channels());
    let channels = of_channels.map(|(((reference, now), cohort), drift)| ChannelHistograms {
        channel: reference.name.clone(),
        edges: reference.edges.clone(),
        reference: reference.shares.clone(),
        now,
        cohort,
        divergence: drift.divergence,
        threshold: drift.threshold,
    });
    Some(HistogramsView {
        agent: agent.clone(),
        stream: stream.clone(),
        against_version: watch.version().0,
        cohort_streams: cohort.len(),
        channels: channels.collect(),
    })
}
