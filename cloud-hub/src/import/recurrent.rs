//! GRU and LSTM.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "an operator takes the forms it knows; any other is shown in an error"
)]

use shared::pipeline::Layer;
use shared::pipeline::layer::Recurrence;
use shared::pipeline::weights::WeightTensor;

use super::graph::{Form, Mapper};
use super::proto::Node;

impl Mapper {
    pub(super) fn recurrent(&mut self, node: &Node) -> Result<(), String> {
        let name = node.inputs.first().map_or("", String::as_str);
        let is_batch_first = node.int("layout", 0) == 1;
        let (steps, width) = match self.features_last(name)? {
            Form::TimeFirst { steps, channels } if !is_batch_first => (steps, channels),
            Form::Pair { dims: [steps, channels], .. } if is_batch_first => (steps, channels),
            form => return Err(format!("it needs [steps, rows, channels], it is given {form:?}")),
        };
        if node.text("direction").is_some_and(|direction| direction != "forward") {
            return Err("only the direction forward is supported".to_owned());
        }
        if node.attribute("activations").is_some() || node.attribute("clip").is_some() {
            return Err("only the usual activations are supported".to_owned());
        }
        for (index, what) in
            [(4, "sequence lengths"), (5, "an initial state"), (6, "an initial cell"), (7, "peepholes")]
        {
            let given = node.inputs.get(index).filter(|name| !name.is_empty());
            let is_zero = |name: &String| {
                self.constant(name).is_some_and(|constant| constant.values.iter().all(|value| *value == 0.0))
            };
            if given.is_some_and(|name| !is_zero(name)) {
                return Err(format!("{what} other than zeros are not supported"));
            }
        }
        let is_gru = node.operator == "GRU";
        // Where each of our gates is among ONNX's: GRU update, reset, candidate; LSTM input, output, forget, cell.
        let gates: &[usize] = if is_gru { &[1, 0, 2] } else { &[0, 2, 3, 1] };
        let (of_input, of_state) = (self.weight(node, 1, "weights")?, self.weight(node, 2, "recurrent weights")?);
        let [1, all, _] = of_state.dims[..] else { return Err("only one direction is supported".to_owned()) };
        let units = all / gates.len();
        let bias = match node.inputs.get(3).filter(|name| !name.is_empty()) {
            Some(_) => self.weight(node, 3, "bias")?.values.clone(),
            None => vec![0.0; 2 * all],
        };
        if of_input.values.len() != all * width || of_state.values.len() != all * units || bias.len() != 2 * all {
            return Err(format!("weights of shapes {:?} and {:?} for {width} channels", of_input.dims, of_state.dims));
        }
        let columns = |of: usize, values: &[f64]| {
            let at = |row: usize, gate: usize, unit: usize| values[(gates[gate] * units + unit) * of + row] as f32;
            let one_row = |row| (0..gates.len()).flat_map(move |gate| (0..units).map(move |unit| (row, gate, unit)));
            let values = (0..of).flat_map(one_row).map(|(row, gate, unit)| at(row, gate, unit)).collect();
            WeightTensor { shape: vec![of, all], values }
        };
        let vector = |values: &[f64]| WeightTensor { shape: vec![all], values: columns(1, values).values };
        let parts = vec![
            ("input_weight", columns(width, &of_input.values)),
            ("hidden_weight", columns(units, &of_state.values)),
            ("input_bias", vector(&bias[..all])),
            ("hidden_bias", vector(&bias[all..])),
        ];
        let used = |index: usize| node.outputs.get(index).filter(|name| self.is_used(name));
        let (give, output, form) = match (used(0), used(1)) {
            (Some(output), None) if is_batch_first => {
                (Recurrence::Sequence, output, Form::Pair { dims: [steps, units], swapped: false })
            }
            (Some(output), None) => {
                (Recurrence::Sequence, output, Form::TimeFirstOfDirections { steps, channels: units })
            }
            (None, Some(output)) => (Recurrence::Last, output, Form::State(units)),
            (Some(_), Some(_)) => return Err("both its states and its last state are taken".to_owned()),
            (None, None) => return Err("it gives nothing".to_owned()),
        };
        let layer = if is_gru {
            Layer::Gru { units: units as u32, give, reset_after: node.int("linear_before_reset", 0) != 0 }
        } else {
            Layer::Lstm { units: units as u32, give }
        };
        let (output, form) = (output.clone(), form);
        self.push(layer, parts);
        self.give(&output, form);
        Ok(())
    }
}
