//! A connection between a box and the hub: a stream each way, in order, that breaks with whatever is on its way.

use std::collections::VecDeque;

use cloud_hub::core::ConnectionId;
use edge_agent::core::Event as EdgeEvent;
use shared::wire::live::LivePicture;
use shared::wire::message::{EdgeToHub, HubToEdge};

use super::random::Random;

/// Pictures that wait for the lane at most.
const PICTURES: usize = 2;

/// What the agent wants of its link.
#[derive(Debug)]
pub(super) enum Command {
    Dial,
    Hangup,
    Send(Box<EdgeToHub>),
}

/// One box's link.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) commands: VecDeque<Command>,
    /// The connection, if there is one, as the hub knows it.
    pub(super) connection: Option<ConnectionId>,
    /// The agent believes in a connection that the network has forgotten.
    pub(super) is_half_open: bool,
    pub(super) to_hub: VecDeque<EdgeToHub>,
    /// The live lane, which nothing else travels on.
    pub(super) live_lane: VecDeque<EdgeToHub>,
    pub(super) to_edge: VecDeque<HubToEdge>,
    /// The hub closes the connection when the messages before this one are through.
    pub(super) is_closing: bool,
    /// What the agent has to hear.
    pub(super) answers: VecDeque<EdgeEvent>,
}

impl Link {
    pub(super) fn is_connected(&self) -> bool {
        self.connection.is_some() || self.is_half_open
    }

    /// A picture for the hub. One too many is dropped.
    pub(super) fn show(&mut self, picture: LivePicture) {
        if self.live_lane.len() < PICTURES && self.connection.is_some() {
            self.live_lane.push_back(EdgeToHub::Live(picture));
        }
    }

    /// Whether anything that came before waits to be sent.
    pub(super) fn has_backlog(&self) -> bool {
        !self.commands.is_empty() || !self.to_hub.is_empty()
    }

    /// The connection is gone; a part of what the hub had sent arrives. Returns what the hub has to be told.
    pub(super) fn cut(&mut self, random: &mut Random) -> Option<ConnectionId> {
        let arriving = random.below(self.to_edge.len() + 1);
        self.answers.extend(self.to_edge.drain(..arriving).map(EdgeEvent::FromHub));
        self.to_edge.clear();
        self.to_hub.clear();
        self.live_lane.clear();
        self.is_closing = false;
        if self.is_connected() {
            self.answers.push_back(EdgeEvent::LinkDown);
        }
        self.is_half_open = false;
        self.connection.take()
    }

    /// The network forgets the connection and nobody is told.
    pub(super) fn half_open(&mut self) -> Option<ConnectionId> {
        let connection = self.connection.take()?;
        self.is_half_open = true;
        self.to_hub.clear();
        self.live_lane.clear();
        self.to_edge.clear();
        Some(connection)
    }

    /// The agent is gone without a word.
    pub(super) fn crash(&mut self) -> Option<ConnectionId> {
        let Self { connection, .. } = std::mem::take(self);
        connection
    }

    pub(super) fn is_idle(&self) -> bool {
        self.commands.is_empty()
            && self.live_lane.is_empty()
            && self.to_hub.is_empty()
            && self.to_edge.is_empty()
            && self.answers.is_empty()
    }
}
