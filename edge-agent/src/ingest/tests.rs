use std::path::Path;

use shared::config::Source;
use tokio::net::TcpListener;

use super::packets::{Properties, Publish, Version, write_publish};
use super::*;
use crate::clock::Clock;
use crate::config::Config;

async fn packet(stream: &mut TcpStream) -> (u8, Vec<u8>) {
    let kind = stream.read_u8().await.unwrap();
    let length = stream.read_u8().await.unwrap();
    let mut body = vec![0; usize::from(length)];
    stream.read_exact(&mut body).await.unwrap();
    (kind >> 4, body)
}

/// A broker that knows MQTT 3.1.1 only, with a message too large before a good one.
async fn old_broker(listener: TcpListener) -> Vec<u16> {
    let (mut first, _) = listener.accept().await.unwrap();
    let (_, connect) = packet(&mut first).await;
    assert_eq!(connect[..7], [0, 4, b'M', b'Q', b'T', b'T', 5]);
    first.write_all(&[0x20, 2, 0, 1]).await.unwrap();
    let (mut second, _) = listener.accept().await.unwrap();
    let (_, connect) = packet(&mut second).await;
    assert_eq!((connect[6], connect[7] & 0b10), (4, 0), "MQTT 3.1.1, and the session is kept");
    second.write_all(&[0x20, 2, 0, 0]).await.unwrap();
    let mut bytes = BytesMut::new();
    let properties = &Properties::default();
    let message = |id, payload| Publish {
        id: Some(id),
        topic: "plant/line1/pump3/telemetry",
        payload,
        properties,
        retain: false,
        again: false,
    };
    write_publish(Version::V311, message(1, &[b' '; 2_000]), &mut bytes);
    write_publish(
        Version::V311,
        message(2, br#"{"ts":1,"id":"a","flow":1,"motor":{"phase currents":[2]},"running":true}"#),
        &mut bytes,
    );
    second.write_all(&bytes).await.unwrap();
    let mut acknowledged = Vec::new();
    while acknowledged.len() < 2 {
        let (kind, body) = packet(&mut second).await;
        match kind {
            4 => acknowledged.push(u16::from_be_bytes([body[0], body[1]])),
            8 => second.write_all(&[0x90, 3, body[0], body[1], 1]).await.unwrap(),
            _ => {}
        }
    }
    // A normal good-bye, after which nothing comes.
    loop {
        match packet(&mut second).await {
            (14, body) if body.is_empty() => return acknowledged,
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_old_broker_is_served_in_its_version_and_a_message_too_large_holds_up_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let text = include_str!("../../../deploy/config/agent.toml")
        .replace("127.0.0.1:1883", &listener.local_addr().unwrap().to_string())
        .replace("# max_packet_bytes = 262144", "max_packet_bytes = 1024");
    let config = Config::parse(&Source::new(Path::new("agent.toml"), text)).unwrap();
    let broker = tokio::spawn(old_broker(listener));
    let telemetry = Telemetry::default();
    let decoder = Decoder::new(&config.inputs);
    let (mut ingest, client) = open(
        &config.mqtt,
        &config.agent.name,
        None,
        decoder,
        WallClock::unremembered(Clock::start()),
        telemetry.clone(),
        1,
    )
    .unwrap();
    let client = tokio::spawn(client.run());

    let refused = ingest.received.recv().await.unwrap();
    assert!(matches!(&refused.content, MessageContent::Rejected(rejection) if rejection.reason == "too_large"));
    let taken = ingest.received.recv().await.unwrap();
    assert!(matches!(&taken.content, MessageContent::Reading(reading) if reading.values == [1.0, 2.0, 1.0]));
    assert_eq!(telemetry.snapshot().broker.version, Some(Version::V311));
    ingest.acknowledge.send_replace(taken.receipt);
    drop(ingest);
    client.await.unwrap();
    assert_eq!(broker.await.unwrap(), [1, 2]);
}
