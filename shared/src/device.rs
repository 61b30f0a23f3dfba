//! The devices a pipeline runs on, chosen at run time among those built in.

use std::fmt;
use std::str::FromStr;

pub use burn::tensor::Device;
use serde::{Deserialize, Serialize};

/// A kind of device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// burn's pure-Rust CPU backend.
    #[default]
    Flex,
    /// burn's older CPU backend, on the `ndarray` crate.
    Ndarray,
    /// A GPU through Vulkan.
    Wgpu,
}

/// Which device a package is to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// This one.
    Fixed(DeviceKind),
    /// The fastest of those that are built in and give the package's golden answers.
    Auto,
}

impl Default for DeviceChoice {
    fn default() -> Self {
        Self::Fixed(DeviceKind::default())
    }
}

impl FromStr for DeviceChoice {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        if name == AUTO { Ok(Self::Auto) } else { name.parse().map(Self::Fixed) }
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(kind) => kind.fmt(f),
            Self::Auto => f.write_str(AUTO),
        }
    }
}

/// The name of the choice that is left to the agent.
const AUTO: &str = "auto";

/// Why a device cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No device has this name.
    #[error("{0:?} is no device; there are flex, ndarray and wgpu")]
    Unknown(String),
    /// This program was built without it.
    #[error("this program was built without the device {0}; build it with `--features {0}`")]
    NotBuiltIn(DeviceKind),
}

impl DeviceKind {
    /// Every kind, built in or not.
    pub const ALL: [Self; 3] = [Self::Flex, Self::Ndarray, Self::Wgpu];

    /// Whether this program was built with it.
    #[must_use]
    pub fn is_built_in(self) -> bool {
        match self {
            Self::Flex => true,
            Self::Ndarray => cfg!(feature = "ndarray"),
            Self::Wgpu => cfg!(feature = "wgpu"),
        }
    }

    /// The device.
    ///
    /// # Errors
    /// If this program was built without it.
    pub fn open(self) -> Result<Device, DeviceError> {
        match self {
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "ndarray")]
            #[expect(deprecated, reason = "burn prefers flex; users who have measured otherwise may choose")]
            Self::Ndarray => Ok(Device::ndarray()),
            #[cfg(not(feature = "ndarray"))]
            Self::Ndarray => Err(DeviceError::NotBuiltIn(self)),
            #[cfg(feature = "wgpu")]
            Self::Wgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(not(feature = "wgpu"))]
            Self::Wgpu => Err(DeviceError::NotBuiltIn(self)),
        }
    }
}

impl FromStr for DeviceKind {
    type Err = DeviceError;

    fn from_str(name: &str) -> Result<Self, DeviceError> {
        Self::ALL.into_iter().find(|kind| kind.to_string() == name).ok_or_else(|| DeviceError::Unknown(name.to_owned()))
    }
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flex => "flex",
            Self::Ndarray => "ndarray",
            Self::Wgpu => "wgpu",
        })
    }
}
