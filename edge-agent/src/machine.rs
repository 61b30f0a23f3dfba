//! What machine this is, as far as files of the kernel say.

use std::fs;

use shared::wire::enrol::MAX_HARDWARE_BYTES;

/// What the maker calls it, such as `Raspberry Pi 4 Model B Rev 1.4`.
#[must_use]
pub fn model() -> Option<String> {
    read("/sys/firmware/devicetree/base/model").or_else(|| read("/sys/class/dmi/id/product_name"))
}

/// Model and serial number, as they stand on the box's label: how somebody who approves of a box tells it from others. Empty if
/// nothing is known; root alone may read the serial number of a PC.
#[must_use]
pub fn hardware() -> String {
    let serial =
        read("/sys/firmware/devicetree/base/serial-number").or_else(|| read("/sys/class/dmi/id/product_serial"));
    let serial = serial.map(|serial| format!("serial {serial}"));
    bounded(&[model(), serial].into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// The text of a file of the kernel, without what surrounds it.
pub(crate) fn read(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let text = text.trim_matches(['\0', '\n', ' ']);
    (!text.is_empty()).then(|| text.to_owned())
}

fn bounded(text: &str) -> String {
    let mut kept = String::new();
    for character in text.chars().filter(|character| !character.is_control()) {
        if kept.len() + character.len_utf8() > MAX_HARDWARE_BYTES {
            break;
        }
        kept.push(character);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_machine_is_short_and_without_control_characters() {
        assert_eq!(bounded("Pi 4\u{7}, serial 1"), "Pi 4, serial 1");
        let long = bounded(&"ä".repeat(200));
        assert_eq!(long.len(), MAX_HARDWARE_BYTES);
        assert!(hardware().len() <= MAX_HARDWARE_BYTES);
    }
}
