#!/bin/sh
# What nvcc makes of the kernels, for one block type (quick): every file compiles, and the tensor-core product really
# holds mma instructions. Usage: nvcc.sh SOURCE-FOLDER. Exits 77 without nvcc.
cd "$1" || exit 1
nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null) || { echo "skipped: no nvcc in PATH or /usr/local/cuda"; exit 77; }
out=$(mktemp -d) bad=0
trap 'rm -rf "$out"' EXIT
for file in gpu/kernels/*.cu; do
    "$nvcc" -std=c++17 -DHT_ONE_TYPE -fmad=false -I. -arch=compute_80 -ptx "$file" -o "$out/$(basename "$file" .cu).ptx" ||
        { echo "$file does not compile"; bad=1; }
done
tiles=$(grep -c 'mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32' "$out/matmat.ptx")
[ "$tiles" -ge 64 ] || # those of the widest tiles alone
    { echo "matmat.cu: $tiles mma instructions"; bad=1; }
# Sums that are indexed by a variable somewhere land in local memory, and the product crawls.
for file in matmat matvec glu attend; do
    ! grep -q '__local_depot' "$out/$file.ptx" || { echo "$file.cu: sums in local memory"; bad=1; }
done
# The oldest GPUs have tensor cores too, in steps of half the depth.
"$nvcc" -std=c++17 -DHT_ONE_TYPE -fmad=false -I. -arch=compute_75 -ptx gpu/kernels/matmat.cu -o "$out/old.ptx" || bad=1
halves=$(grep -c 'mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32' "$out/old.ptx")
[ "$halves" -ge 128 ] || { echo "matmat.cu: $halves mma instructions on sm_75"; bad=1; }
# Dispatch: matmat takes that kernel for F16 columns (tests/gpu/test_resident.c looks at what a prompt launches).
# Without contraction there is no fused multiply-add but those that math.h writes.
fused=$(grep -c 'fma.rn.f32' "$out/matvec.ptx")
[ "$fused" -eq 0 ] || { echo "matvec.cu: $fused contracted multiply-adds"; bad=1; }
for dp in matvec glu; do grep -q 'dp4a' "$out/$dp.ptx" || { echo "$dp.cu: no dp4a"; bad=1; }; done
echo "$tiles mma instructions in matmat"
exit $bad
