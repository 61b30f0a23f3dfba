//! What lies on the boot partition of a prepared image: cloud-init's seed, the agent's package, its configuration and its token.
//!
//! Files as cloud-init's NoCloud reads them (<https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>), and network
//! settings in its version 2, which is netplan's.

use std::fmt::Write as _;

use serde_json::json;

/// Where a boot partition is mounted: Raspberry Pi OS and Ubuntu, Debian with EFI, others.
const MOUNTS: &str = "/boot/firmware /boot/efi /boot";
/// Installs what lies beside it, and lets the box in. POSIX sh, for it runs on whatever the image is.
const INSTALL: &str = "#!/bin/sh
# Installs Tideline's agent from this partition, without a network, and lets the box in.
set -eu
here=$(dirname \"$0\")
if command -v dpkg >/dev/null; then
    dpkg -i \"$here\"/tideline-*.deb
else
    rpm -U --replacepkgs \"$here\"/tideline-*.rpm
fi
# A power cut from here on finds everything in its place.
sync
systemctl daemon-reload
systemctl start --no-block tideline-enroll.service
";

/// A box to be.
#[derive(Debug, Clone)]
pub struct NewBox {
    /// What it will call itself on its network.
    pub host_name: String,
    /// What makes this start the first one for cloud-init: different for each box.
    pub instance: String,
    /// The agent's package: its file's name, and the file.
    pub package: (String, Vec<u8>),
    /// The agent's configuration, if not the package's own.
    pub config: Option<String>,
    /// What lets it in.
    pub token: String,
    /// The wireless network it joins.
    pub wifi: Option<Wifi>,
    /// A key that lets its owner log in over SSH as the image's own user.
    pub ssh_key: Option<String>,
}

/// A wireless network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wifi {
    /// Its name.
    pub ssid: String,
    /// Its password; an open one has none.
    pub password: Option<String>,
    /// The country whose rules the radio keeps, as two letters.
    pub country: Option<String>,
}

/// Files for a boot partition, all in its root: nothing there has to be made but them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed(Vec<(String, Vec<u8>)>);

impl Seed {
    /// Of these files, by path.
    #[must_use]
    pub fn of(files: Vec<(String, Vec<u8>)>) -> Self {
        Self(files)
    }

    /// All that a box needs to become one at its first start.
    #[must_use]
    pub fn for_box(new: &NewBox) -> Self {
        let mut files = vec![
            ("meta-data".to_owned(), meta_data(new)),
            ("user-data".to_owned(), user_data(new)),
            ("tideline-install.sh".to_owned(), INSTALL.to_owned()),
            ("tideline-enroll.token".to_owned(), format!("{}\n", new.token)),
        ];
        files.extend(new.wifi.as_ref().map(|wifi| ("network-config".to_owned(), network_config(wifi))));
        files.extend(new.config.clone().map(|config| ("tideline-agent.toml".to_owned(), config)));
        let mut files: Vec<(String, Vec<u8>)> =
            files.into_iter().map(|(name, text)| (name, text.into_bytes())).collect();
        let (name, package) = &new.package;
        files.push((name.clone(), package.clone()));
        Self(files)
    }

    /// The files, by path.
    pub fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()))
    }

    /// Bytes of all of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes.len() as u64).sum()
    }
}

fn meta_data(new: &NewBox) -> String {
    format!("instance-id: {}\nlocal-hostname: {}\n", quoted(&new.instance), quoted(&new.host_name))
}

fn user_data(new: &NewBox) -> String {
    let mut text = format!("#cloud-config\nhostname: {}\npreserve_hostname: false\n", quoted(&new.host_name));
    if let Some(key) = &new.ssh_key {
        // Writing to a string does not fail.
        writeln!(text, "ssh_authorized_keys:\n  - {}", quoted(key)).ok();
    }
    let find = format!(
        "for place in {MOUNTS}; do if [ -f $place/tideline-install.sh ]; then exec sh $place/tideline-install.sh; fi; done"
    );
    writeln!(text, "runcmd:\n  - [sh, -c, {}]", quoted(&find)).ok();
    text
}

fn network_config(wifi: &Wifi) -> String {
    let access = wifi.password.as_ref().map_or_else(|| json!({}), |password| json!({ "password": password }));
    let mut wireless = json!({ "dhcp4": true, "optional": true, "access-points": { &wifi.ssid: access } });
    if let Some(country) = &wifi.country {
        wireless["regulatory-domain"] = json!(country);
    }
    let wired = json!({ "match": { "name": "e*" }, "dhcp4": true, "optional": true });
    // JSON is YAML, and quotes whatever a name or a password holds.
    let all = json!({ "version": 2, "ethernets": { "wired": wired }, "wifis": { "wlan0": wireless } });
    format!("{all}\n")
}

/// A text in YAML, whatever it holds.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn new_box() -> NewBox {
        NewBox {
            host_name: "edge-1".to_owned(),
            instance: "tideline-0a1b2c3d".to_owned(),
            package: ("tideline-edge_0.1.0_arm64.deb".to_owned(), vec![1, 2, 3]),
            config: None,
            token: "tle1_abc".to_owned(),
            wifi: None,
            ssh_key: None,
        }
    }

    fn file(seed: &Seed, name: &str) -> Option<String> {
        let found = seed.files().find(|(path, _)| *path == name);
        found.map(|(_, bytes)| String::from_utf8_lossy(bytes).into_owned())
    }

    #[test]
    fn a_box_gets_what_it_needs_and_nothing_it_was_not_told() {
        let seed = Seed::for_box(&new_box());
        let names: Vec<&str> = seed.files().map(|(name, _)| name).collect();
        let expected =
            ["meta-data", "user-data", "tideline-install.sh", "tideline-enroll.token", "tideline-edge_0.1.0_arm64.deb"];
        assert_eq!(names, expected);
        assert_eq!(file(&seed, "tideline-enroll.token").as_deref(), Some("tle1_abc\n"));
        assert_eq!(
            file(&seed, "meta-data").as_deref(),
            Some("instance-id: \"tideline-0a1b2c3d\"\nlocal-hostname: \"edge-1\"\n")
        );
        let user_data = file(&seed, "user-data").expect("there");
        assert!(user_data.starts_with("#cloud-config\nhostname: \"edge-1\"\n"), "{user_data}");
        assert!(user_data.contains("/boot/firmware") && !user_data.contains("tle1_"), "{user_data}");
    }

    #[test]
    fn whatever_a_network_and_a_key_are_called_they_stay_what_they_are() {
        let (ssid, password) = ("it's: \"fast\" #1".to_owned(), "p\\a\"s: {}\n".to_owned());
        let wifi = Wifi { ssid: ssid.clone(), password: Some(password.clone()), country: Some("DE".to_owned()) };
        let seed = Seed::for_box(&NewBox {
            wifi: Some(wifi),
            ssh_key: Some("ssh-ed25519 AAAA ada".to_owned()),
            config: Some("[agent]\n".to_owned()),
            ..new_box()
        });
        let network: Value = serde_json::from_str(&file(&seed, "network-config").expect("there")).expect("JSON");
        let wireless = &network["wifis"]["wlan0"];
        assert_eq!(wireless["access-points"][&ssid]["password"], password);
        assert_eq!((&network["version"], &wireless["regulatory-domain"]), (&json!(2), &json!("DE")));
        assert!(file(&seed, "user-data").expect("there").contains("  - \"ssh-ed25519 AAAA ada\"\n"));
        assert_eq!(file(&seed, "tideline-agent.toml").as_deref(), Some("[agent]\n"));
    }
}
