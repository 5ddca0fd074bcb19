//! The sr25519 key that a server holds: a hotkey, never a coldkey.

use std::fmt;

use schnorrkel::keys::{ExpansionMode, MiniSecretKey};
use schnorrkel::{PublicKey, SecretKey};

use crate::Hotkey;

/// A signature over some bytes, 64 bytes whatever the scheme.
pub type Signature = [u8; 64];

/// The signing context of every Substrate chain and of the official Python SDK.
const CONTEXT: &[u8] = b"substrate";

/// Seed of the development phrase that Substrate tools derive `//Alice` and the others from.
const DEVELOPMENT_SEED: [u8; 32] = [
    0xfa, 0xc7, 0x95, 0x9d, 0xbf, 0xe7, 0x2f, 0x05, 0x2e, 0x5a, 0x0c, 0x3c, 0x8d, 0x65, 0x30, 0xf2,
    0x02, 0xb0, 0x2f, 0xd8, 0xf9, 0xf5, 0xca, 0x35, 0x80, 0xec, 0x8d, 0xeb, 0x77, 0x97, 0x47, 0x9e,
];

/// An sr25519 key pair. Its secret half is wiped when it is dropped and never shown.
#[derive(Clone)]
pub struct Keypair(schnorrkel::Keypair);

impl Keypair {
    /// The pair of a 32-byte seed (a "mini secret"), expanded as Substrate does.
    pub fn from_seed(seed: &[u8; 32]) -> Option<Self> {
        let mini = MiniSecretKey::from_bytes(seed).ok()?;
        Some(Self(mini.expand_to_keypair(ExpansionMode::Ed25519)))
    }

    /// The pair of a 64-byte expanded secret key, in the layout of a wallet file's `privateKey`.
    pub fn from_expanded(secret: &[u8; 64]) -> Option<Self> {
        let secret = SecretKey::from_ed25519_bytes(secret).ok()?;
        Some(Self(secret.to_keypair()))
    }

    /// A new random pair.
    pub fn generate() -> Self {
        Self(MiniSecretKey::generate().expand_to_keypair(ExpansionMode::Ed25519))
    }

    /// The well-known pair `//name` of local chains, such as `Alice`. Its secret is public: for development only.
    pub fn development(name: &str) -> Self {
        let mut chain_code = [0; 32];
        // SCALE: a length below 64 is one byte, shifted left by two.
        let name = &name.as_bytes()[..name.len().min(31)];
        chain_code[0] = (name.len() as u8) << 2;
        chain_code[1..=name.len()].copy_from_slice(name);
        let root = MiniSecretKey::from_bytes(&DEVELOPMENT_SEED)
            .unwrap_or_else(|_| unreachable!("the seed has 32 bytes"))
            .expand(ExpansionMode::Ed25519);
        let (derived, _) =
            root.hard_derive_mini_secret_key(Some(schnorrkel::derive::ChainCode(chain_code)), b"");
        Self(derived.expand_to_keypair(ExpansionMode::Ed25519))
    }

    /// The public half.
    pub fn hotkey(&self) -> Hotkey {
        Hotkey::from_bytes(self.0.public.to_bytes())
    }

    /// Signs `message` in the context `substrate`.
    pub fn sign(&self, message: &[u8]) -> Signature {
        self.0.sign_simple(CONTEXT, message).to_bytes()
    }
}

impl Hotkey {
    /// Whether `signature` is this key's sr25519 signature over `message`.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let Ok(key) = PublicKey::from_bytes(self.as_bytes()) else { return false };
        let Ok(signature) = schnorrkel::Signature::from_bytes(signature) else { return false };
        key.verify_simple(CONTEXT, message, &signature).is_ok()
    }
}

impl fmt::Debug for Keypair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keypair({}, secret hidden)", self.hotkey())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn development_keys_are_those_of_other_tools() {
        let alice = Keypair::development("Alice").hotkey();
        assert_eq!(alice.to_string(), "5GrwvaEF5zXb26Fz9rcQpDWS57CtERHpNehXCPcNoHGKutQY");
        let bob = Keypair::development("Bob").hotkey();
        assert_eq!(bob.to_string(), "5FHneW46xGXgs5mUiveU4sbTyGBzmstUspZC92UhjJM694ty");
    }

    #[test]
    fn a_signature_holds_for_its_key_and_message_only() {
        let (alice, bob) = (Keypair::development("Alice"), Keypair::development("Bob"));
        let signature = alice.sign(b"hello");
        assert!(alice.hotkey().verifies(b"hello", &signature));
        assert!(!alice.hotkey().verifies(b"hullo", &signature));
        assert!(!bob.hotkey().verifies(b"hello", &signature));
        assert!(!alice.hotkey().verifies(b"hello", &[0xff; 64]));
    }

    #[test]
    fn debug_output_hides_the_secret() {
        let alice = Keypair::development("Alice");
        assert_eq!(format!("{alice:?}"), format!("Keypair({}, secret hidden)", alice.hotkey()));
    }
}
