//! The load: a publisher that outruns whoever reads, or keeps an exact rate, and an observer that times the answers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::BytesMut;
use edge_agent::clock::Clock;
use edge_agent::ingest::packets::{self, Hello, Incoming, Presence, Properties, Publish, Reader, Version};

/// Messages whose time is one of these apart.
const STEP_MS: i64 = 10;
/// When the first message was measured: 2026-01-01.
const FIRST_MS: i64 = 1_767_225_600_000;
/// Messages that the broker has not acknowledged, if the publisher is to outrun it. MQTT 3.1.1 sets no limit to them.
const WINDOW: usize = 2_000;
/// Time between two looks at the clock of a paced publisher.
const PACE_STEP: Duration = Duration::from_micros(200);
const MAX_PACKET_BYTES: u32 = 1024 * 1024;
const SILENCE: Duration = Duration::from_secs(30);

/// Readings as JSON messages, numbered by their time.
pub struct Messages {
    bodies: Vec<Vec<u8>>,
}

impl Messages {
    /// `count` messages with `rows` over and over.
    #[must_use]
    pub fn new(channels: &[String], rows: &[Vec<f64>], count: usize) -> Self {
        let body = |number: usize| {
            let values: serde_json::Map<_, _> =
                channels.iter().cloned().zip(rows[number % rows.len()].iter().map(|value| (*value).into())).collect();
            let time_ms = FIRST_MS + STEP_MS * number as i64;
            serde_json::json!({ "ts": time_ms, "id": number, "channels": values }).to_string().into_bytes()
        };
        Self { bodies: (0..count).map(body).collect() }
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bodies.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bodies.is_empty()
    }

    /// Bytes of all payloads.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bodies.iter().map(|body| body.len() as u64).sum()
    }
}

/// The number of the message that an answer is for.
fn number_of(time_ms: i64) -> usize {
    usize::try_from((time_ms - FIRST_MS) / STEP_MS).unwrap_or(usize::MAX)
}

/// A connection that has been greeted.
fn connect(broker: SocketAddr, name: &str, version: Version) -> anyhow::Result<(TcpStream, Reader)> {
    let mut stream = TcpStream::connect(broker)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    let hello = Hello {
        client_id: name.to_owned(),
        login: None,
        presence: Presence::Guest,
        keep_alive_s: 0,
        session_expiry_s: 0,
        receive_maximum: u16::MAX,
        max_packet_bytes: MAX_PACKET_BYTES,
    };
    let mut out = BytesMut::new();
    packets::write_connect(version, &hello, &mut out).map_err(|problem| anyhow::anyhow!("connect: {problem}"))?;
    stream.write_all(&out)?;
    let mut reader = Reader::default();
    let answer = receive(&mut stream, &mut reader, version)?;
    if !matches!(answer, Incoming::Connected { .. }) {
        bail!("be greeted by the broker: it said {answer:?}");
    }
    Ok((stream, reader))
}

fn receive(stream: &mut TcpStream, reader: &mut Reader, version: Version) -> anyhow::Result<Incoming> {
    let mut bytes = [0; 65_536];
    loop {
        if let Some(packet) = reader.next(version, MAX_PACKET_BYTES)? {
            return Ok(packet);
        }
        let count = stream.read(&mut bytes)?;
        // Else the broker keeps the next message back for up to 40 ms, and it is not the broker that is measured.
        if count < 512 {
            socket2::SockRef::from(&*stream).set_tcp_quickack(true)?;
        }
        match count {
            0 => bail!("the broker closed the connection"),
            count => reader.buffer.extend_from_slice(&bytes[..count]),
        }
    }
}

/// Publishes all messages at QoS 1 and says when each was due, in microseconds of `clock`.
///
/// # Errors
/// If the broker fails.
pub fn publish(
    broker: SocketAddr,
    topic: &str,
    messages: &Messages,
    pace: Pace,
    clock: Clock,
) -> anyhow::Result<Vec<u64>> {
    let (stream, reader) = connect(broker, "bench-publisher", Version::V311)?;
    let mut publisher = Publisher { stream, topic, messages, due_us: Vec::new(), out: BytesMut::new() };
    match pace {
        Pace::Unbounded => publisher.outrun(reader, clock)?,
        Pace::PerSecond(rate) => publisher.keep_pace(reader, rate, clock)?,
    }
    Ok(publisher.due_us)
}

/// How fast to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as the broker takes messages.
    Unbounded,
    /// So many a second, however long the broker takes.
    PerSecond(u32),
}

struct Publisher<'a> {
    stream: TcpStream,
    topic: &'a str,
    messages: &'a Messages,
    due_us: Vec<u64>,
    out: BytesMut,
}

impl Publisher<'_> {
    fn outrun(&mut self, mut reader: Reader, clock: Clock) -> anyhow::Result<()> {
        let mut acknowledged = 0;
        while acknowledged < self.messages.len() {
            let now = clock.monotonic_us();
            self.send_until((acknowledged + WINDOW).min(self.messages.len()), |_| now)?;
            let mut packet = Some(receive(&mut self.stream, &mut reader, Version::V311)?);
            while let Some(received) = packet {
                acknowledged += usize::from(matches!(received, Incoming::Published(_)));
                packet = reader.next(Version::V311, MAX_PACKET_BYTES)?;
            }
        }
        Ok(())
    }

    fn keep_pace(&mut self, mut reader: Reader, rate: u32, clock: Clock) -> anyhow::Result<()> {
        let mut incoming = self.stream.try_clone()?;
        let total = self.messages.len();
        let acks = std::thread::spawn(move || -> anyhow::Result<()> {
            let mut acknowledged = 0;
            while acknowledged < total {
                let packet = receive(&mut incoming, &mut reader, Version::V311)?;
                acknowledged += usize::from(matches!(packet, Incoming::Published(_)));
            }
            Ok(())
        });
        let started = clock.monotonic_us();
        while self.due_us.len() < total && !acks.is_finished() {
            let passed = clock.monotonic_us() - started;
            let until = (passed * u64::from(rate) / 1_000_000) as usize + 1;
            // A message counts from when it should have been sent, also where the sender came late.
            self.send_until(until.min(total), |number| started + number as u64 * 1_000_000 / u64::from(rate))?;
            crate::pause(PACE_STEP);
        }
        acks.join().map_err(|_| anyhow::anyhow!("the publisher's reader failed"))?
    }

    fn send_until(&mut self, until: usize, due_us: impl Fn(usize) -> u64) -> anyhow::Result<()> {
        for number in self.due_us.len()..until {
            self.due_us.push(due_us(number));
            let id = Some((number % usize::from(u16::MAX)) as u16 + 1);
            let payload = &self.messages.bodies[number];
            let properties = &Properties::default();
            let publish = Publish { id, topic: self.topic, payload, properties, retain: false, again: false };
            packets::write_publish(Version::V311, publish, &mut self.out);
        }
        self.stream.write_all(&self.out)?;
        self.out.clear();
        Ok(())
    }
}

/// Answers as they were seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// When each message was answered, in microseconds; 0 if it was not.
    pub at_us: Vec<u64>,
    /// Its score.
    pub scores: Vec<f32>,
}

/// A subscriber that notes when which message was answered.
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    count: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
}

impl Observer {
    /// Subscribes to `topic` for the answers to `messages`.
    ///
    /// # Errors
    /// If the broker fails.
    pub fn start(broker: SocketAddr, topic: &str, messages: usize, clock: Clock) -> anyhow::Result<Self> {
        let (mut stream, mut reader) = connect(broker, "bench-observer", Version::V5)?;
        let mut out = BytesMut::new();
        packets::write_subscribe(Version::V5, 1, &[topic.to_owned()], &mut out)
            .map_err(|problem| anyhow::anyhow!("subscribe: {problem}"))?;
        stream.write_all(&out)?;
        let granted = receive(&mut stream, &mut reader, Version::V5).context("subscribe")?;
        if granted != (Incoming::Subscribed { refused: 0 }) {
            bail!("subscribe to {topic}: the broker said {granted:?}");
        }
        let seen = Arc::new(Mutex::new(Seen { at_us: vec![0; messages], scores: vec![f32::NAN; messages] }));
        let (count, stop) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let (into, counted, stopped) = (Arc::clone(&seen), Arc::clone(&count), Arc::clone(&stop));
        // It ends with the connection, or when nobody waits for it any more.
        std::thread::spawn(move || {
            let mut out = BytesMut::new();
            while !stopped.load(Ordering::Relaxed) {
                let Ok(packet) = receive(&mut stream, &mut reader, Version::V5) else { return };
                let now = clock.monotonic_us();
                let mut seen = into.lock().unwrap_or_else(PoisonError::into_inner);
                let mut next = Some(packet);
                // All that came with one read is noted with one lock, and acknowledged in one write.
                while let Some(packet) = next {
                    note(&packet, now, &mut seen, &counted, &mut out);
                    next = reader.next(Version::V5, MAX_PACKET_BYTES).ok().flatten();
                }
                drop(seen);
                if stream.write_all(&out).is_err() {
                    return;
                }
                out.clear();
            }
        });
        Ok(Self { seen, count, stop })
    }

    /// Answers seen.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed) as usize
    }

    /// Waits until `count` answers were seen, or none came for a while.
    ///
    /// # Errors
    /// If they do not come.
    pub fn wait(&self, count: usize) -> anyhow::Result<()> {
        let (mut before, mut still) = (0, 0);
        while self.count() < count {
            crate::pause(Duration::from_millis(5));
            still = if self.count() == before { still + 1 } else { 0 };
            before = self.count();
            if still > SILENCE.as_millis() / 5 {
                bail!("see {count} answers: no more than {before} came");
            }
        }
        Ok(())
    }

    /// What was seen.
    #[must_use]
    pub fn take(&self) -> Seen {
        std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn note(packet: &Incoming, now: u64, seen: &mut Seen, count: &AtomicU32, out: &mut BytesMut) {
    let Incoming::Message(message) = packet else { return };
    if let Some(id) = message.packet_id {
        packets::write_puback(id, out);
    }
    let field = |name: &str| -> Option<f64> {
        let text = std::str::from_utf8(&message.payload).ok()?;
        let rest = text[text.find(name)? + name.len()..].trim_start_matches([':', ' ']);
        rest[..rest.find([',', '}'])?].parse().ok()
    };
    let (Some(time_ms), Some(score)) = (field("\"time_ms\""), field("\"score\"")) else { return };
    let number = number_of(time_ms as i64);
    if seen.at_us.get(number) == Some(&0) {
        seen.at_us[number] = now;
        seen.scores[number] = score as f32;
        count.fetch_add(1, Ordering::Relaxed);
    }
}
