//! Times tract on networks that onnxruntime's script has written: tract-bench NETWORKS.json FOLDER
//!
//! Says, as JSON, the time of a call and the answer to the first row.

use std::time::Instant;

use serde::Deserialize;
use serde_json::{Value, json};
use tract_onnx::prelude::*;

#[derive(Deserialize)]
struct Orders {
    batches: Vec<usize>,
    sample_us: u128,
    samples: usize,
    networks: Vec<Network>,
}

#[derive(Deserialize)]
struct Network {
    name: String,
    steps: Option<usize>,
    channels: usize,
    layers: Vec<Value>,
    features: Vec<f32>,
}

fn main() -> TractResult<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, file, folder] = arguments.as_slice() else {
        eprintln!("usage: tract-bench NETWORKS.json FOLDER");
        std::process::exit(2);
    };
    let orders: Orders = serde_json::from_slice(&std::fs::read(file)?)?;
    let mut said = Vec::new();
    for (number, network) in orders.networks.iter().enumerate() {
        for batch in &orders.batches {
            let rows = network.rows(*batch)?;
            // Optimised for this batch, which is the best tract can do.
            let model = onnx()
                .model_for_path(format!("{folder}/{number}.onnx"))?
                .with_input_fact(0, f32::fact(rows.shape()).into())?
                .into_optimized()?
                .into_runnable()?;
            let first_row = model.run(tvec!(rows.clone().into()))?[0].to_plain_array_view::<f32>()?.to_owned();
            let first_row: Vec<f32> = first_row.iter().copied().take(first_row.len() / batch).collect();
            let us = measure(&orders, || model.run(tvec!(rows.clone().into())).map(drop))?;
            said.push(json!({ "network": network.name, "batch": batch, "us": us, "first_row": first_row }));
        }
    }
    println!("{}", Value::Array(said));
    Ok(())
}

impl Network {
    fn rows(&self, batch: usize) -> TractResult<Tensor> {
        let size = self.channels * self.steps.unwrap_or(1);
        let rows = &self.features[..batch * size];
        let Some(steps) = self.steps else {
            return Tensor::from_shape(&[batch, self.channels], rows);
        };
        let rows = Tensor::from_shape(&[batch, steps, self.channels], rows)?;
        let is_recurrent = self.layers.iter().any(|layer| layer.get("gru").is_some());
        rows.permute_axes(if is_recurrent { &[1, 0, 2] } else { &[0, 2, 1] })
    }
}

fn measure(orders: &Orders, mut call: impl FnMut() -> TractResult<()>) -> TractResult<f64> {
    let mut spend = |calls: u32| {
        let started = Instant::now();
        for _ in 0..calls {
            call()?;
        }
        TractResult::Ok(started.elapsed())
    };
    let mut calls = 1;
    while spend(calls)?.as_micros() < orders.sample_us {
        calls *= 2;
    }
    let mut samples = Vec::new();
    for _ in 0..orders.samples {
        samples.push(spend(calls)?.as_secs_f64() * 1e6 / f64::from(calls));
    }
    samples.sort_by(f64::total_cmp);
    Ok(samples[samples.len() / 2])
}
