//! Compares what this chain has under spec 365 with mainnet's metadata: every call, storage item, error, event, function
//! and transaction extension.

use std::path::Path;

use parity_scale_codec::Decode;
use scale_info::TypeDef;
use scale_info::form::PortableForm;
use subxt::Metadata;

use crate::node::chain::Chain;
use crate::specs::Genesis;

/// Names the file with mainnet's metadata of spec 365.
const VARIABLE: &str = "TOUCHSTONE_FINNEY_METADATA";

/// Where this chain cannot be the same, and why.
const EXPECTED: &[(&str, &str)] = &[
    ("call Sudo.sudo", "it takes any call of the runtime, and this one has fewer"),
    (
        "storage Balances.Freezes",
        "it names every reason that a runtime has, and this one has fewer",
    ),
    ("storage Balances.Holds", "it names every reason that a runtime has, and this one has fewer"),
    ("storage System.BlockSize", "a newer FRAME keeps it"),
    ("storage System.BlocksTillUpgrade", "a newer FRAME keeps it"),
    ("storage System.Events", "it holds any event of the runtime, and this one has fewer"),
    ("storage TransactionPayment.TxPaymentCredit", "a newer FRAME keeps it"),
];

/// What only newer runtimes have, and the official SDK asks every chain for.
const NEWER: &[&str] = &[
    "call MevShield.submit_encrypted",
    "function BetaBasketRuntimeApi.get_root_basket_owed",
    "function BetaBasketRuntimeApi.get_root_basket_positions",
    "function ShieldApi.carried",
    "function StakeInfoRuntimeApi.get_stake_availability_for_coldkeys",
    "function SubnetInfoRuntimeApi.get_subnet_hyperparams_v3",
    "function SwapRuntimeApi.current_alpha_price_all",
    "storage SubtensorModule.CollateralLockShare",
    "storage SubtensorModule.Lock",
    "storage SubtensorModule.SubnetEpochConsensus",
];

fn ours() -> Metadata {
    let chain = Chain::open(None, std::time::Duration::from_secs(12), &Genesis::default()).unwrap();
    let answer =
        chain.query(&chain.head(), "Metadata_metadata_at_version", &[16, 0, 0, 0]).unwrap();
    let bytes = Option::<Vec<u8>>::decode(&mut answer.as_slice()).unwrap().unwrap();
    Metadata::decode_from(&bytes).unwrap()
}

/// A type without the names of types: two of the same shape are the same bytes.
fn shape(metadata: &Metadata, id: u32) -> String {
    let fields = |fields: &[scale_info::Field<PortableForm>]| {
        let all = fields.iter().map(|field| shape(metadata, field.ty.id));
        all.filter(|field| !field.is_empty()).collect::<Vec<_>>().join(",")
    };
    let Some(ty) = metadata.types().resolve(id) else { return "unknown".to_owned() };
    match &ty.type_def {
        TypeDef::Composite(of) => fields(&of.fields),
        TypeDef::Variant(of) => {
            let of = of.variants.iter().map(|variant| {
                format!("{}={}({})", variant.index, variant.name, fields(&variant.fields))
            });
            format!("<{}>", of.collect::<Vec<_>>().join("|"))
        }
        TypeDef::Sequence(of) => format!("[{}]", shape(metadata, of.type_param.id)),
        TypeDef::Array(of) => format!("[{};{}]", shape(metadata, of.type_param.id), of.len),
        TypeDef::Tuple(of) => {
            let all = of.fields.iter().map(|field| shape(metadata, field.id));
            all.filter(|field| !field.is_empty()).collect::<Vec<_>>().join(",")
        }
        TypeDef::Primitive(of) => format!("{of:?}"),
        TypeDef::Compact(of) => format!("compact {}", shape(metadata, of.type_param.id)),
        TypeDef::BitSequence(_) => "bits".to_owned(),
    }
}

#[test]
fn conformance_with_mainnet_metadata() {
    let Some(path) = std::env::var_os(VARIABLE) else {
        println!("skipped: {VARIABLE} names no file with mainnet's metadata");
        return;
    };
    // Relative paths mean the workspace, whichever folder the tests run in.
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")).join(path);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let theirs = Metadata::decode_from(&bytes).unwrap();
    let ours = ours();
    let (mut differences, mut left_out, mut same) = (Vec::new(), Vec::new(), 0);
    let mut compare = |what: String, equal: bool| {
        if equal {
            same += 1;
        } else {
            differences.push(what);
        }
    };
    for pallet in ours.pallets() {
        let name = pallet.name();
        let Some(real) = theirs.pallet_by_name(name) else {
            panic!("mainnet has no pallet {name}")
        };
        compare(format!("pallet {name}"), pallet.call_index() == real.call_index());
        for call in pallet.call_variants().into_iter().flatten() {
            let found = real.call_variant_by_name(&call.name);
            let equal = found.is_some_and(|found| {
                let names = |fields: &[scale_info::Field<PortableForm>]| {
                    fields.iter().map(|field| field.name.clone()).collect::<Vec<_>>()
                };
                found.index == call.index
                    && names(&found.fields) == names(&call.fields)
                    && real.call_hash(&call.name) == pallet.call_hash(&call.name)
            });
            compare(format!("call {name}.{}", call.name), equal);
        }
        for item in pallet.storage().into_iter().flat_map(|storage| storage.entries()) {
            let found = real.storage().and_then(|storage| storage.entry_by_name(item.name()));
            let equal = found.is_some_and(|found| {
                let hashers = |entry: &subxt::metadata::StorageEntryMetadata| {
                    entry.keys().map(|key| format!("{:?}", key.hasher)).collect::<Vec<_>>()
                };
                hashers(found) == hashers(item)
                    && found.default_value() == item.default_value()
                    && real.storage_hash(item.name()) == pallet.storage_hash(item.name())
            });
            compare(format!("storage {name}.{}", item.name()), equal);
        }
        for error in pallet.error_variants().into_iter().flatten() {
            let found = real.error_variant_by_index(error.index);
            compare(
                format!("error {name}.{}", error.name),
                found.is_some_and(|found| found.name == error.name),
            );
        }
        // The events of FRAME's own pallets have grown since, and are theirs to answer for.
        let of_bittensor = !matches!(name, "System" | "Balances" | "TransactionPayment");
        for event in pallet.event_variants().into_iter().flatten().filter(|_| of_bittensor) {
            let found = real.event_variant_by_index(event.index);
            let shapes = |metadata: &Metadata, event: &scale_info::Variant<PortableForm>| {
                let all = event.fields.iter();
                all.map(|field| (field.name.clone(), shape(metadata, field.ty.id)))
                    .collect::<Vec<_>>()
            };
            let named = found.is_some_and(|found| found.name == event.name);
            let equal = found.is_some_and(|found| shapes(&theirs, found) == shapes(&ours, event));
            compare(format!("event {name}.{}", event.name), named && equal);
        }
        let calls = real.call_variants().into_iter().flatten().map(|call| call.name.as_str());
        let missing: Vec<_> =
            calls.filter(|call| pallet.call_variant_by_name(call).is_none()).collect();
        let items = real.storage().into_iter().flat_map(|storage| storage.entries());
        let has = |item: &str| {
            pallet.storage().is_some_and(|storage| storage.entry_by_name(item).is_some())
        };
        let items: Vec<_> = items.map(|item| item.name()).filter(|item| !has(item)).collect();
        left_out.push(format!("{name}: calls {missing:?}, storage {items:?}"));
    }
    let extensions = |metadata: &Metadata| {
        let version = metadata.extrinsic().transaction_extension_version_to_use_for_encoding();
        let all = metadata.extrinsic().transaction_extensions_by_version(version).unwrap();
        all.map(|extension| {
            let shapes = [extension.extra_ty(), extension.additional_ty()];
            (extension.identifier().to_owned(), shapes.map(|ty| shape(metadata, ty)))
        })
        .collect::<Vec<_>>()
    };
    compare("transaction extensions".to_owned(), extensions(&ours) == extensions(&theirs));
    for (trait_name, method) in
        ours.runtime_api_traits().flat_map(|api| api.methods().map(move |m| (api, m)))
    {
        let (name, method) = (trait_name.name(), method.name());
        let real =
            theirs.runtime_api_trait_by_name(name).and_then(|api| api.method_by_name(method));
        let mine = trait_name.method_by_name(method);
        let known = real.is_some();
        let hashes = real.map(|real| real.hash()) == mine.map(|mine| mine.hash());
        let about_calls = matches!(
            name,
            "Core" | "BlockBuilder" | "TaggedTransactionQueue" | "TransactionPaymentApi"
        );
        compare(format!("function {name}.{method}"), hashes || about_calls && known);
    }
    left_out.sort();
    println!("{same} items are the same as mainnet's. Left out:\n{}", left_out.join("\n"));
    differences.sort();
    for (what, why) in EXPECTED {
        println!("Expected to differ: {what}: {why}.");
    }
    for what in NEWER {
        println!("Expected to differ: {what}: the official SDK asks every chain for it.");
    }
    let mut expected: Vec<&str> =
        EXPECTED.iter().map(|(what, _)| *what).chain(NEWER.iter().copied()).collect();
    expected.sort_unstable();
    assert_eq!(differences, expected, "what differs from mainnet is not what is expected to");
}
