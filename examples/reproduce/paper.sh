#!/bin/sh
# The paper's comparisons on real data: paper.sh DATA OUT [DOCS]. Goes on where it was stopped.
# DATA holds the sets as docs/reproduction.md names them. OUT holds private data afterwards: keep it
# where DATA is. DOCS gets the small tables and the pictures that show no sample.
set -eu

data=$1
out=$2
docs=${3:-}

run() {
    name=$1
    shift
    printf '\n$ sltool reproduce %s\n' "$*"
    sltool reproduce "$@" --out "$out/$name"
    if [ -n "$docs" ]; then
        mkdir -p "$docs/$name"
        cp "$out/$name/results.csv" "$docs/$name/"
        for picture in bars curves errors leaks roc sweep; do
            if [ -f "$out/$name/figures/$picture.png" ]; then
                cp "$out/$name/figures/$picture.png" "$docs/$name/"
            fi
        done
    fi
}

run direct-ldl cholesterol --source "$data/cholesterol/ldl_direct_1000.csv"
run check-ups cholesterol --source "$data/cholesterol/korea_checkup_20000.csv"
run covid-ct covid-ct --source "$data/covid-ct-sao-paulo" --set training.epochs=50 \
    --arms multi single pooled federated federated:10 federated:5 federated:1 online
# The paper's own width and activation at the site: one channel, sigmoid; with and without views.
run covid-ct-1-channel covid-ct --source "$data/covid-ct-sao-paulo" --arms multi \
    --set 'model.filters=[1, 32, 64, 128, 256]' model.activation=sigmoid \
    model.server.activation=leaky-relu training.epochs=100 \
    --sweep encoding.views=1,20
run cifar10 cifar10 --source "$data/cifar-10-batches-bin"
# Sites that differ in their labels, and many sites.
everyone="multi federated single pooled"
for sweep in "sites=10 skew=0.1,0.5,1,iid" "sites=3,10,30,100"; do
    case $sweep in *skew*) kind=skew ;; *) kind=sites ;; esac
    # shellcheck disable=SC2086 # The arms and the sweep are several words.
    {
        run "$kind-check-ups" cholesterol \
            --source "$data/cholesterol/korea_checkup_20000.csv" --arms $everyone --sweep $sweep
        run "$kind-covid-ct" covid-ct --source "$data/covid-ct-sao-paulo" \
            --arms $everyone --sweep $sweep
        run "$kind-cifar10" cifar10 --source "$data/cifar-10-batches-bin" \
            --arms $everyone --sweep $sweep
    }
done
run fracatlas mura --dataset fracatlas --plugins-dir plugins --source "$data/fracatlas" \
    --recipe paper --arms multi single:C \
    --set dataset.size=96 model.width=0.125 model.channels=16 encoding.views=16 \
    training.epochs=80 training.batch_size=16 training.optimizer=adamw \
    training.learning_rate=0.001 training.schedule=one-cycle training.weight_decay=0.01 \
    training.label_smoothing=0.1
# Accuracy against what an attacker gets, by privacy layer.
run privacy-check-ups privacy --dataset cholesterol --seeds 3 \
    --source "$data/cholesterol/korea_checkup_20000.csv"
run privacy-ct privacy --dataset covid-ct --seeds 3 --source "$data/covid-ct-sao-paulo"
run privacy-x-rays privacy --dataset fracatlas --seeds 3 --plugins-dir plugins \
    --source "$data/fracatlas"
