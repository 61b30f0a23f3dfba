//! Graphs made by other tools give the answers they give there: `onnx/make_graphs.py` made them, and asked onnxruntime.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cloud_hub::import::{ImportedNetwork, read_onnx};
use serde_json::Value;
use shared::device::DeviceKind;
use shared::pipeline::Shape;
use shared::pipeline::network::Network;
use tests::program;

/// How far an answer may be from onnxruntime's.
const TOLERANCE: f32 = 1e-4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx")
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().into_iter().flatten().flat_map(|row| row.as_array().into_iter().flatten()).map(number).collect()
}

fn number(value: &Value) -> f32 {
    value.as_f64().expect("a number") as f32
}

fn shape(value: &Value) -> Shape {
    let dims: Vec<usize> = value.as_array().expect("a list").iter().map(|dim| number(dim) as usize).collect();
    match dims[..] {
        [features] => Shape::Flat(features),
        [steps, channels] => Shape::Sequence { steps, channels },
        _ => panic!("{dims:?}"),
    }
}

#[test]
fn imported_graphs_answer_as_onnxruntime_does() {
    let mut compared = 0;
    let mut wrong = Vec::new();
    let mut cases: Vec<PathBuf> =
        fs::read_dir(folder()).expect("lists").map(|entry| entry.expect("listed").path()).collect();
    cases.sort();
    for file in cases.iter().filter(|path| path.extension().is_some_and(|ending| ending == "json")) {
        let case: Value = serde_json::from_slice(&fs::read(file).expect("reads")).expect("JSON");
        let (input, rows, expected) = (shape(&case["input"]), numbers(&case["rows"]), numbers(&case["answers"]));
        let found = match read_onnx(&file.with_extension("onnx"), input, false) {
            Ok(network) => run(&network, input, &rows),
            Err(error) => {
                wrong.push(error.to_string());
                continue;
            }
        };
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= TOLERANCE * (1.0 + b.abs());
        if found.len() != expected.len() || !found.iter().zip(&expected).all(close) {
            wrong.push(format!(
                "{}: {:?}, not {:?}",
                file.display(),
                &found[..4.min(found.len())],
                &expected[..4.min(expected.len())]
            ));
        }
        compared += 1;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(compared >= 12, "{compared} graphs");
}

fn run(network: &ImportedNetwork, input: Shape, rows: &[f32]) -> Vec<f32> {
    let device = DeviceKind::Flex.open().expect("built in");
    Network::build(&network.layers, input, &network.weights, &device).expect("builds").run(rows, &device)
}

#[test]
fn what_no_layer_can_be_is_refused_by_the_nodes_name() {
    let error = read_onnx(&folder().join("unsupported.onnx"), Shape::Flat(4), false).expect_err("refused").to_string();
    assert!(error.ends_with("unsupported.onnx: node \"mixer\" (Einsum): this operator is not supported"), "{error}");
    let error = read_onnx(&folder().join("mlp_gemm.onnx"), Shape::Flat(5), false).expect_err("refused").to_string();
    assert!(error.contains("its input \"x\" is [rows, [6]], the pipeline gives 5 features"), "{error}");
    let error = read_onnx(&folder().join("make_graphs.py"), Shape::Flat(5), false).expect_err("refused").to_string();
    assert!(error.contains("it is no ONNX model"), "{error}");
}

/// From a graph to answers, as a user does it.
#[test]
fn an_imported_classifier_is_packed_verified_and_scored() {
    let directory = tempfile::tempdir().expect("dir");
    let path = |name: &str| directory.path().join(name).display().to_string();
    let declaration =
        "[input]\nchannels = ['a', 'b', 'c', 'd', 'e']\n[decision.classify]\nlabels = ['left', 'right']\n";
    fs::write(path("p.toml"), declaration).expect("writes");
    let case: Value =
        serde_json::from_slice(&fs::read(folder().join("sklearn_two_labels.json")).expect("reads")).expect("JSON");
    let rows: Vec<String> = case["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| row.as_array().expect("numbers").iter().map(ToString::to_string).collect::<Vec<_>>().join(","))
        .collect();
    fs::write(path("rows.csv"), format!("a,b,c,d,e\n{}\n", rows.join("\n"))).expect("writes");
    let run = |name: &str, arguments: &[&str]| {
        let output = Command::new(program(name).expect("built")).args(arguments).output().expect("runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    let graph = folder().join("sklearn_two_labels.onnx").display().to_string();
    let public = run("cloud-hub", &["key", "create", "--output", &path("release.key")]);
    let (model, key) = (path("m.tide"), path("release.key"));
    run("cloud-hub", &["import", "--onnx", &graph, "--pipeline", &path("p.toml"), "--output", &model, "--key", &key]);
    let report = run("cloud-hub", &["package", "verify", &model, "--trust", public.trim(), "--output", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&report).expect("JSON")["trusted"], true, "{report}");
    let scored = run(
        "edge-agent",
        &["score", "--model", &model, "--trust", public.trim(), "--input", &path("rows.csv"), "--output", "-"],
    );
    let answers = case["answers"].as_array().expect("answers");
    assert_eq!(scored.lines().count(), 1 + answers.len());
    for (line, answer) in scored.lines().skip(1).zip(answers) {
        let probabilities = [number(&answer[0]), number(&answer[1])];
        let expected =
            if probabilities[1] > probabilities[0] { ("right", probabilities[1]) } else { ("left", probabilities[0]) };
        let fields: Vec<&str> = line.split(',').collect();
        let confidence: f32 = fields[2].parse().expect("a number");
        assert!(fields[1] == expected.0 && (confidence - expected.1).abs() < TOLERANCE, "{line}: {answer}");
    }
}
