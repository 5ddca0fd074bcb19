//! What is published, with its real layouts.

use frame_support::pallet_prelude::*;
use frame_support::traits::ConstU32;
use parity_scale_codec::{Error, Input, Output};
use scale_info::build::{Fields, Variants};
use scale_info::{Path, Type};

/// Everything a hotkey publishes in a subnet.
#[derive(Clone, PartialEq, Eq, Default, Debug, Encode, Decode, DecodeWithMemTracking, TypeInfo)]
pub struct CommitmentInfo {
    /// At most three.
    pub fields: BoundedVec<Data, ConstU32<3>>,
}

impl CommitmentInfo {
    /// Bytes that it counts as.
    pub fn space(&self) -> u64 {
        self.fields.iter().map(|field| field.bytes().len() as u64).sum()
    }
}

/// What is stored of a hotkey's commitment.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, TypeInfo)]
pub struct Registration<BlockNumber> {
    /// In rao; always 0.
    pub deposit: u64,
    /// When it was published.
    pub block: BlockNumber,
    /// What was published.
    pub info: CommitmentInfo,
}

/// How much of the permitted space is used.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Encode, Decode, TypeInfo)]
pub struct UsageTracker {
    /// In which epoch.
    pub last_epoch: u64,
    /// Bytes.
    pub used_space: u64,
}

/// One field. The first byte of its encoding tells the kind and, of raw data, the length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Data {
    /// Nothing.
    None,
    /// Up to 128 bytes.
    Raw(BoundedVec<u8, ConstU32<128>>),
    /// A BLAKE2 hash.
    BlakeTwo256([u8; 32]),
    /// A SHA-2 hash.
    Sha256([u8; 32]),
    /// A Keccak hash.
    Keccak256([u8; 32]),
    /// A SHA-3 hash.
    ShaThree256([u8; 32]),
    /// Something that can be read from a time on.
    TimelockEncrypted {
        /// The encrypted bytes.
        encrypted: BoundedVec<u8, ConstU32<1024>>,
        /// The round of the random beacon whose number is the key.
        reveal_round: u64,
    },
    /// Asks for a reset of the bonds on the signer.
    ResetBondsFlag,
    /// Up to 512 bytes.
    BigRaw(BoundedVec<u8, ConstU32<512>>),
}

impl Data {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::None | Self::ResetBondsFlag => &[],
            Self::Raw(bytes) => bytes,
            Self::BlakeTwo256(hash)
            | Self::Sha256(hash)
            | Self::Keccak256(hash)
            | Self::ShaThree256(hash) => hash,
            Self::TimelockEncrypted { encrypted, .. } => encrypted,
            Self::BigRaw(bytes) => bytes,
        }
    }
}

impl Encode for Data {
    fn encode_to<T: Output + ?Sized>(&self, out: &mut T) {
        match self {
            Self::None => out.push_byte(0),
            // The bound keeps the length within a byte.
            Self::Raw(bytes) => out.push_byte((bytes.len() as u8).saturating_add(1)),
            Self::BlakeTwo256(_) => out.push_byte(130),
            Self::Sha256(_) => out.push_byte(131),
            Self::Keccak256(_) => out.push_byte(132),
            Self::ShaThree256(_) => out.push_byte(133),
            Self::TimelockEncrypted { encrypted, reveal_round } => {
                out.push_byte(134);
                encrypted.encode_to(out);
                return reveal_round.encode_to(out);
            }
            Self::ResetBondsFlag => out.push_byte(135),
            Self::BigRaw(bytes) => {
                out.push_byte(136);
                return bytes.encode_to(out);
            }
        }
        out.write(self.bytes());
    }
}

impl parity_scale_codec::EncodeLike for Data {}

impl Decode for Data {
    fn decode<I: Input>(input: &mut I) -> Result<Self, Error> {
        Ok(match input.read_byte()? {
            0 => Self::None,
            kind @ 1..=129 => {
                let mut bytes = vec![0; usize::from(kind) - 1];
                input.read(&mut bytes)?;
                Self::Raw(bytes.try_into().map_err(|_| "too long")?)
            }
            130 => Self::BlakeTwo256(Decode::decode(input)?),
            131 => Self::Sha256(Decode::decode(input)?),
            132 => Self::Keccak256(Decode::decode(input)?),
            133 => Self::ShaThree256(Decode::decode(input)?),
            134 => Self::TimelockEncrypted {
                encrypted: Decode::decode(input)?,
                reveal_round: Decode::decode(input)?,
            },
            135 => Self::ResetBondsFlag,
            136 => Self::BigRaw(Decode::decode(input)?),
            _ => return Err("no such kind of data".into()),
        })
    }
}

impl DecodeWithMemTracking for Data {}

impl TypeInfo for Data {
    type Identity = Self;

    /// The real chain describes raw data of each length as a variant of its own.
    fn type_info() -> Type {
        let hash = || Fields::unnamed().field(|field| field.ty::<[u8; 32]>());
        macro_rules! with_raw {
            ($variants:expr, $($length:literal)*) => {
                $variants$(.variant(concat!("Raw", stringify!($length)), |variant| {
                    let fields = Fields::unnamed().field(|field| field.ty::<[u8; $length]>());
                    variant.index($length + 1).fields(fields)
                }))*
            };
        }
        let variants = with_raw!(
            Variants::new().variant("None", |variant| variant.index(0)),
            0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60
            61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79 80 81 82 83 84 85 86 87 88 89
            90 91 92 93 94 95 96 97 98 99 100 101 102 103 104 105 106 107 108 109 110 111 112 113
            114 115 116 117 118 119 120 121 122 123 124 125 126 127 128
        );
        let variants = variants
            .variant("BlakeTwo256", |variant| variant.index(130).fields(hash()))
            .variant("Sha256", |variant| variant.index(131).fields(hash()))
            .variant("Keccak256", |variant| variant.index(132).fields(hash()))
            .variant("ShaThree256", |variant| variant.index(133).fields(hash()))
            .variant("TimelockEncrypted", |variant| {
                let fields = Fields::named()
                    .field(|field| field.name("encrypted").ty::<BoundedVec<u8, ConstU32<1024>>>())
                    .field(|field| field.name("reveal_round").ty::<u64>());
                variant.index(134).fields(fields)
            })
            .variant("ResetBondsFlag", |variant| variant.index(135))
            .variant("BigRaw", |variant| {
                let bytes =
                    Fields::unnamed().field(|field| field.ty::<BoundedVec<u8, ConstU32<512>>>());
                variant.index(136).fields(bytes)
            });
        Type::builder().path(Path::new("Data", module_path!())).variant(variants)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data() -> impl Strategy<Value = Data> {
        let bytes = |most| prop::collection::vec(any::<u8>(), 0..=most);
        prop_oneof![
            Just(Data::None),
            Just(Data::ResetBondsFlag),
            bytes(128).prop_map(|bytes| Data::Raw(bytes.try_into().unwrap())),
            bytes(512).prop_map(|bytes| Data::BigRaw(bytes.try_into().unwrap())),
            any::<[u8; 32]>().prop_map(Data::Sha256),
            (bytes(1024), any::<u64>()).prop_map(|(encrypted, reveal_round)| {
                Data::TimelockEncrypted { encrypted: encrypted.try_into().unwrap(), reveal_round }
            }),
        ]
    }

    #[test]
    fn raw_data_says_its_length_in_its_first_byte() {
        let raw = Data::Raw(vec![7; 3].try_into().unwrap());
        assert_eq!(raw.encode(), [4, 7, 7, 7]);
        assert!(Data::decode(&mut &[137_u8][..]).is_err());
    }

    proptest! {
        #[test]
        fn data_survives_its_encoding(data in data()) {
            prop_assert_eq!(Data::decode(&mut data.encode().as_slice()), Ok(data));
        }
    }
}
