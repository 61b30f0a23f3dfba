use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rumqttc::v5::mqttbytes::v5;

use super::*;

const RECEIVE_MAXIMUM: u16 = 10;

fn session() -> Session {
    let hello = Hello {
        client_id: "box".into(),
        login: Some(("user".into(), "secret".into())),
        presence: Presence::Kept { availability: "box/availability".into() },
        keep_alive_s: 30,
        session_expiry_s: 60,
        receive_maximum: RECEIVE_MAXIMUM,
        max_packet_bytes: 1_024,
    };
    Session::new(hello, vec!["plant/#".into()])
}

fn welcome(session_present: bool, receive_maximum: u16) -> Incoming {
    Incoming::Connected { session_present, receive_maximum, max_packet_bytes: 200, keep_alive_s: None }
}

fn connected(session: &mut Session, now: Millis, session_present: bool) -> BytesMut {
    let mut out = BytesMut::new();
    session.connect(now, &mut out).unwrap();
    session.receive(now, welcome(session_present, 4), &mut out).unwrap();
    out
}

fn said(out: &mut BytesMut) -> Vec<v5::Packet> {
    let mut packets = Vec::new();
    while !out.is_empty() {
        packets.push(v5::Packet::read(out, None).unwrap());
    }
    packets
}

fn message(id: u16, redelivered: bool) -> Incoming {
    let payload = Bytes::from_static(b"1");
    Incoming::Message(Message { topic: "plant/a".into(), payload, packet_id: Some(id), redelivered, oversized: None })
}

fn to_publish(number: u64) -> Outgoing {
    Outgoing {
        topic: "box/prediction".into(),
        payload: number.to_string().into_bytes(),
        properties: Properties::default(),
        retain: false,
        delivery: Delivery::AtLeastOnce,
    }
}

/// A broker that keeps its session, with a network that breaks.
struct Broker {
    random: StdRng,
    has_session: bool,
    is_new: bool,
    published: u64,
    in_flight: BTreeMap<u16, (u64, bool)>,
    queued: VecDeque<u64>,
    acknowledged: BTreeSet<u64>,
    heard: BTreeSet<u64>,
}

impl Broker {
    fn takes(&mut self, packets: Vec<v5::Packet>, known_to_agent: &BTreeSet<u64>) -> Vec<Incoming> {
        let mut answers = Vec::new();
        for packet in packets {
            match packet {
                v5::Packet::Connect(connect, will, login) => {
                    assert!(!connect.clean_start && will.is_some() && login.is_some());
                    self.is_new = true;
                    answers.push(welcome(self.has_session, self.random.random_range(1..6)));
                    self.has_session = true;
                }
                v5::Packet::PubAck(ack) => {
                    let (number, _) =
                        self.in_flight.remove(&ack.pkid).expect("only what was delivered is acknowledged");
                    assert!(known_to_agent.contains(&number), "acknowledged before the agent said so: {number}");
                    self.acknowledged.insert(number);
                }
                v5::Packet::Publish(publish) if publish.topic == "box/prediction" => {
                    self.heard.insert(std::str::from_utf8(&publish.payload).unwrap().parse().unwrap());
                    answers.push(Incoming::Published(publish.pkid));
                }
                v5::Packet::Publish(publish) => answers.push(Incoming::Published(publish.pkid)),
                v5::Packet::Subscribe(_) => answers.push(Incoming::Subscribed { refused: 0 }),
                v5::Packet::PingReq(_) => answers.push(Incoming::Pong),
                other @ (v5::Packet::Auth(_)
                | v5::Packet::ConnAck(_)
                | v5::Packet::PingResp(_)
                | v5::Packet::SubAck(_)
                | v5::Packet::PubRec(_)
                | v5::Packet::PubRel(_)
                | v5::Packet::PubComp(_)
                | v5::Packet::Unsubscribe(_)
                | v5::Packet::UnsubAck(_)
                | v5::Packet::Disconnect(_)) => panic!("the session said {other:?}"),
            }
        }
        answers
    }

    /// Messages that may be delivered now.
    fn delivers(&mut self) -> Vec<(u64, Incoming)> {
        let mut out = Vec::new();
        if std::mem::take(&mut self.is_new) {
            for (id, (number, delivered)) in &mut self.in_flight {
                out.push((*number, message(*id, std::mem::replace(delivered, true))));
            }
        }
        while self.in_flight.len() < usize::from(RECEIVE_MAXIMUM) {
            let Some(number) = self.queued.pop_front() else { break };
            let id = (1..=u16::MAX).find(|id| !self.in_flight.contains_key(id)).unwrap();
            self.in_flight.insert(id, (number, true));
            out.push((number, message(id, false)));
        }
        out
    }
}

/// Messages and publishes survive any number of lost connections; nothing is acknowledged that the agent did not say.
#[test]
fn a_broker_whose_connections_break_gets_every_publish_and_only_the_agents_acknowledgements() {
    for seed in 0..300 {
        let mut broker = Broker {
            random: StdRng::seed_from_u64(seed),
            has_session: false,
            is_new: false,
            published: 0,
            in_flight: BTreeMap::new(),
            queued: VecDeque::new(),
            acknowledged: BTreeSet::new(),
            heard: BTreeSet::new(),
        };
        let mut session = session();
        let mut out = BytesMut::new();
        let (mut now, mut is_connected, mut published) = (Millis(0), false, 0);
        let mut taken: VecDeque<(Receipt, u64)> = VecDeque::new();
        let mut known = BTreeSet::new();
        for step in 0..400 {
            now = now.plus(broker.random.random_range(0..50));
            let is_calm = step > 330;
            match broker.random.random_range(0..10) {
                0 if is_connected && !is_calm => {
                    session.disconnected(&Problem::Closed);
                    out.clear();
                    is_connected = false;
                }
                1 if !is_calm => {
                    broker.queued.push_back(broker.published);
                    broker.published += 1;
                }
                2 if !is_calm => {
                    session.publish(now, to_publish(published), true, &mut out);
                    published += 1;
                }
                3..6 if !taken.is_empty() => {
                    // The agent has made some durable; it does not know which of them are of an older connection.
                    let count = broker.random.random_range(1..=taken.len());
                    let durable: Vec<_> = taken.drain(..count).collect();
                    known.extend(durable.iter().map(|(_, number)| *number));
                    session.acknowledge(now, durable[count - 1].0, &mut out);
                }
                _ if !is_connected => {
                    session.connect(now, &mut out).unwrap();
                    is_connected = true;
                }
                _ => {}
            }
            if !is_connected {
                continue;
            }
            for answer in broker.takes(said(&mut out), &known) {
                session.receive(now, answer, &mut out).unwrap();
            }
            for (number, packet) in broker.delivers() {
                let Ok(Some(Arrival::Message { receipt, may_be_redelivered, .. })) =
                    session.receive(now, packet, &mut out)
                else {
                    panic!("a message did not arrive")
                };
                assert!(may_be_redelivered || taken.iter().all(|(_, other)| *other != number));
                taken.push_back((receipt, number));
            }
            assert!(session.in_flight.len() <= session.quota.max(1));
        }
        for _ in 0..20 {
            let answers = broker.takes(said(&mut out), &known);
            answers.into_iter().for_each(|answer| drop(session.receive(now, answer, &mut out).unwrap()));
        }
        assert_eq!(broker.heard.len() as u64, published, "seed {seed}: publishes were lost");
        assert!(session.in_flight.is_empty() && session.waiting.is_empty(), "seed {seed}");
    }
}

#[test]
fn a_receipt_of_an_older_connection_acknowledges_nothing_of_a_newer_one() {
    let mut session = session();
    connected(&mut session, Millis(0), false);
    let mut out = BytesMut::new();
    let Some(Arrival::Message { receipt, .. }) = session.receive(Millis(1), message(1, false), &mut out).unwrap()
    else {
        panic!("no message")
    };
    session.disconnected(&Problem::Closed);
    connected(&mut session, Millis(2), true);
    session.receive(Millis(3), message(1, true), &mut out).unwrap();
    session.acknowledge(Millis(4), receipt, &mut out);
    assert!(out.is_empty());
}

#[test]
fn a_broker_of_the_old_version_is_spoken_to_in_it_and_asked_for_the_new_one_again() {
    let mut session = session();
    let mut out = BytesMut::new();
    session.connect(Millis(0), &mut out).unwrap();
    let refusal = Incoming::Refused { reason: "code 1".into(), other_version: true };
    let problem = session.receive(Millis(1), refusal, &mut out).unwrap_err();
    session.disconnected(&problem);
    assert_eq!(session.version(), Version::V311);
    connected(&mut session, Millis(2), true);
    session.disconnected(&Problem::Closed);
    assert_eq!(session.version(), Version::V5);
    // One that only closes the connection is asked twice: it may have been restarted just then.
    for expected in [Version::V5, Version::V311] {
        session.connect(Millis(3), &mut out).unwrap();
        session.disconnected(&Problem::Closed);
        assert_eq!(session.version(), expected);
    }
}

#[test]
fn a_silent_broker_is_pinged_and_given_up_but_not_while_we_do_not_read() {
    let mut session = session();
    connected(&mut session, Millis(0), false);
    let mut out = BytesMut::new();
    let due = session.poll_timeout().unwrap();
    assert_eq!(due, Millis(22_500));
    session.tick(due, true, &mut out).unwrap();
    assert_eq!(said(&mut out), [v5::Packet::PingReq(v5::PingReq)]);
    session.tick(due.plus(9_999), false, &mut out).unwrap();
    session.tick(due.plus(15_000), true, &mut out).unwrap();
    assert_eq!(session.tick(due.plus(19_999), true, &mut out), Err(Problem::Silent));
    session.disconnected(&Problem::Silent);
    session.connect(Millis(100_000), &mut out).unwrap();
    assert_eq!(session.tick(Millis(110_000), true, &mut out), Err(Problem::Silent));
}

#[test]
fn a_publish_larger_than_the_broker_takes_is_counted_and_holds_up_nothing() {
    let mut session = session();
    let mut out = connected(&mut session, Millis(0), false);
    said(&mut out);
    session.publish(Millis(1), Outgoing { payload: vec![b'x'; 300], ..to_publish(0) }, true, &mut out);
    session.publish(Millis(1), to_publish(1), true, &mut out);
    assert_eq!((session.take_too_large(), said(&mut out).len()), (1, 1));
}

#[test]
fn a_refused_subscription_is_reported_and_a_good_bye_ends_the_connection() {
    let mut session = session();
    let mut out = connected(&mut session, Millis(0), false);
    let refused = session.receive(Millis(1), Incoming::Subscribed { refused: 1 }, &mut out);
    assert_eq!(refused, Ok(Some(Arrival::SubscriptionRefused(1))));
    let goodbye = session.receive(Millis(1), Incoming::Goodbye("ServerShuttingDown".into()), &mut out);
    assert_eq!(goodbye, Err(Problem::Goodbye("ServerShuttingDown".into())));
}

#[test]
fn a_publish_waits_for_the_brokers_quota_unless_we_cannot_hear_of_it() {
    let mut session = session();
    let mut out = connected(&mut session, Millis(0), false);
    (0..10).for_each(|number| session.publish(Millis(1), to_publish(number), true, &mut out));
    assert!(!session.can_publish(true) && session.can_publish(false));
    assert_eq!(session.in_flight.len(), 4);
    said(&mut out);
    session.publish(Millis(2), to_publish(10), false, &mut out);
    let [v5::Packet::Publish(publish)] = &said(&mut out)[..] else { panic!("one publish") };
    assert_eq!((publish.qos, session.in_flight.len()), (rumqttc::v5::mqttbytes::QoS::AtMostOnce, 4));
}
