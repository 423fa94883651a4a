"""The LRM of the paper (arXiv 2311.04400): one image of 512 px -> 3 planes of 64 x 64 x 80.

  python -m lrm_jax.train --config=base --workdir=runs/base --config.data.path=DIR \
      --config.loss.lpips_network=vgg16_lpips.npz --config.encoder_weights=dino_vitbase16_pretrain.pth

Hardware: the paper used 128 A100 of 40 GB for about 3 days. It trained for 30 epochs with 1,024 objects per step. An
epoch has 1,391,305 objects: 730,648 rendered objects, and 220,219 videos, each seen three times. Without the videos
(config.data.mixture.mvimgnet.path is empty), the same steps are 57 epochs of the rendered objects alone. On fewer
devices, a step has more micro-batches, as many as the memory needs; allow more days.
`python -m lrm_jax.train --config=base --dry_run` prints the parameters, memory and operations of a step.
Expected: 451 million parameters (the paper says about 500). No loss curve has been published, and we have none yet.

The comment after each value gives its unit and its source:
  [P] the paper; [B] later papers that restate the recipe; [C] common to all follow-up work; [M] from memory, because we
  could not read a source; [ours] our choice, because the sources do not say.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()

  config.num_train_steps = 40_761  # steps: 30 epochs of 730,648 + 3 x 220,219 objects [P] in batches of 1,024
  config.batch_size = 1024  # objects per step, over all devices [P]
  # Objects that a device computes at once, in as many micro-batches as that takes; 0: as many as its memory holds.
  config.objects_per_device = 0  # [ours]
  config.gradient_accumulation = 0  # micro-batches per step; 0: derived from objects_per_device [ours]
  config.rays_per_chunk = 0  # rays of each object rendered at once; 0: as many as fit a fifth of the memory [ours]
  config.seed = 0  # seed of the initial parameters, the order of the data and the samples along rays
  # True: on GPUs, the same run gives the same bits, but steps are slower (docs/operations.md). CPUs always do.
  config.deterministic = False
  config.log_every = 10  # steps between lines of metrics.jsonl [ours]
  config.checkpoint_every = 500  # steps between checkpoints [ours]
  config.checkpoint_minutes = 0.0  # minutes after which a checkpoint is saved even between multiples; 0: never [ours]
  # Other checkpoints than the last two are kept for good, without their optimizer states: multiples of keep_every, and
  # the best by a metric of the evaluations, such as 'eval_psnr' or 'eval_lpips'.
  config.keep_every = 10_000  # steps; 0: none [ours]
  config.best_metric = ''  # '': none [ours]
  config.eval_every = 1000  # steps between evaluations on held-out objects, which write metrics and images [ours]
  # Where metrics go besides metrics.jsonl: 'tensorboard', 'wandb', 'mlflow' (docs/operations.md).
  config.trackers = ('tensorboard',)
  # A step is skipped if its loss or gradient is NaN or infinite, or if its loss is a spike.
  config.max_skipped_steps = 10  # consecutive skipped steps; one more stops the run [ours]
  config.loss_spike = 5.0  # multiple of the loss's running mean above which a loss is a spike; 0: never [ours]
  # Decay per step of a moving average of the parameters, which is evaluated and exported in their place; 0: no average.
  config.ema_decay = 0.0  # such as 0.999 for 10,000 steps, 0.9999 for 100,000; costs 4 bytes per parameter [ours]
  # True: resumes with other datasets or another seed, whose examples do not continue those of the checkpoint.
  config.allow_other_data = False
  # Initial weights of the whole model: a run, OpenLRM or TripoSR directory, or hf://owner/name; '': random.
  config.init_from = ''
  # True: takes from a model of other sizes what fits, and resizes its tables; the rest is random (docs/training.md).
  config.init_partial = False
  config.encoder_weights = ''  # file with the initial weights of the encoder, DINO ViT-B/16 [P]; '': random

  config.model = model = ConfigDict()
  model.architecture = 'lrm'  # 'lrm', 'openlrm' or 'triposr': see lrm_jax/models/
  model.image_size = 512  # px, side of the input image [B]
  model.encoder = 'dino'  # 'dino' or 'dinov2' [P]
  model.patch_size = 16  # px: DINO ViT-B/16, 32 x 32 patches and the class token make 1,025 tokens [P]
  model.encoder_width = 768  # channels [P]
  model.encoder_depth = 12  # layers [P]
  model.encoder_num_heads = 12  # attention heads [P]
  model.encoder_table_size = 14  # patches along the side of DINO's position table (224 px) [P]
  model.encoder_interpolate_offset = 0.1  # patches, added to the side when resizing the position table [DINO's code]
  model.camera_width = 1024  # channels of the camera embedding [C]
  model.decoder_width = 1024  # channels [P]
  model.decoder_depth = 16  # layers [P]
  model.decoder_num_heads = 16  # attention heads [C]
  model.triplane_resolution = 32  # tokens along the side of a plane: 3 x 32 x 32 = 3,072 tokens [P]
  model.triplane_upsample = 2  # texels per token along the side: planes of 64 x 64 [P]
  model.triplane_channels = 80  # channels of the planes [P]
  model.plane_axes = ('xy', 'xz', 'zy')  # world axes along the width and height of each plane [C; not in the paper]
  model.nerf_width = 64  # channels [P]
  model.nerf_depth = 10  # linear layers, including the output layer [M]
  model.num_samples = 128  # samples per ray [B, C]
  model.half_size = 1.0  # world units: the planes cover the cube [-half_size, half_size]^3 [P]
  model.num_input_views = 1  # largest number of images of an object that the model takes at once [P]
  model.density_scale = 1.0  # density = scale * softplus(s - 1), per world unit [ours; softplus C]
  model.color_padding = 0.001  # the sigmoid of colours is stretched by this much at both ends [C]
  model.sinusoidal_positions = False  # learned position tables start from noise, not from sinusoids [P]
  # Activations kept for the backward pass: 'none' keeps all, 'dots' products with weights, 'full' only layer inputs.
  model.remat = 'dots'  # [ours]
  # LoRA, for fine-tuning: all parameters are frozen, and low-rank changes of these projections of attention train.
  model.lora_rank = 0  # 0: no LoRA; such as 16
  model.lora_alpha = 16.0  # the changes are scaled by lora_alpha / lora_rank
  model.lora_projections = ('q', 'v')  # of 'q', 'k', 'v', 'out' [Hu et al. 2021]
  model.dtype = 'bfloat16'  # compute dtype of the networks; parameters, cameras, compositing are float32 [B]

  config.data = data = ConfigDict()
  data.path = ''  # dataset directory, the one with dataset_info.json (see data/build.py), or 'embedded'
  data.times = 1.0  # times that each object is seen per epoch
  data.train_split = 'train'  # split to train on
  data.eval_split = 'test'  # split to evaluate on during training
  data.eval_objects = 100  # held-out objects of each dataset; 0: it is not evaluated [P: 50 + 50]
  data.eval_size = 128  # px, side of the evaluated views [ours]
  data.num_side_views = 3  # supervised views besides the input view [P]
  # Shares of the examples with 1, 2, ... config.model.num_input_views input views; (): equal [ours]
  data.input_view_shares = ()
  data.window = 128  # px, side of the random window of each view that is rendered and supervised [B]
  data.resize_min = 128  # px; before the window is cut, a view is resized to a random side, at least this [B]
  data.resize_max = 384  # px; at most this [B]
  # 'foreground': instead of the window, as many single pixels of the whole view, not for LPIPS (docs/training.md).
  data.rays = 'window'  # [ours]
  data.foreground_share = 0.5  # share of these pixels that are on the object [ours]
  data.foreground_bias = 0.0  # probability that a window is centred on the object instead of placed uniformly [ours]
  data.background = (1.0,)  # grey levels; each target view has one at random; white [B, C]
  data.input_background = 1.0  # grey level behind the object in the input image [B, C]
  data.normalise_cameras = True  # moves the scene so that the input camera is at [0, -2, 0] [P]
  data.keep_distance = False  # True: the input camera is at [0, -d, 0], where d is its own distance
  data.mirror = False  # True: reflects half of the scenes [ours]
  data.permute_colors = False  # True: random order of red, green, blue, shared by all views of an example [ours]
  data.frontal_input_probability = 0.0  # probability that the input is view 0; otherwise a random view [ours]
  data.num_workers = 8  # processes per host that read and decode [ours]
  # Fraction of the records. If more are broken, the run stops. Fewer are logged and replaced by others.
  data.max_broken_share = 0.01  # [ours]
  data.fov = 50.0  # degrees, field of view assumed for an image without a camera [C]
  # The longer side of the object, as a fraction of the image side, in an image without a camera.
  data.fill = 0.58  # [ours, measured]
  # Further datasets, by name: the path (empty: not used), and the values of `data` that differ. An epoch covers all
  # datasets.
  data.mixture = ConfigDict()
  data.mixture.mvimgnet = ConfigDict(dict(path='', times=3.0, keep_distance=True))  # [P]
  data.mixture.procedural = ConfigDict(dict(path='', times=1.0, eval_objects=0))  # objects of data/procedural.py [ours]

  config.loss = loss = ConfigDict()
  # LPIPS is the perceptual distance of a rendered window to the true one. It needs weights of VGG16 and of the LPIPS
  # heads, which are not part of this repository (see docs/weights.md). A weight of 0 trains without LPIPS.
  loss.lpips_weight = 2.0  # weight of LPIPS, added to the mean squared error of the colours, whose weight is 1 [P]
  loss.lpips_network = ''  # file of the VGG16 and LPIPS weights, or several separated by commas
  loss.mask_weight = 0.0  # weight of the squared error of the opacity [ours; not in the paper]
  loss.mask_entropy_weight = 0.0  # weight of the cross-entropy of the opacity [not in the paper]
  loss.opacity_entropy_weight = 0.0  # weight of the entropy of the opacity, against fog [ours; not in the paper]
  # The next three need datasets with depth (data/render.py --depth) [not in the paper].
  loss.depth_weight = 0.0  # weight of the mean error of depths, in world units
  loss.surface_weight = 0.0  # weight of the mean squared distance of what is seen to the surface, in world units
  loss.normal_weight = 0.0  # weight of the mean of 1 - cos(angle between the normals of rendered and true depth)
  loss.total_variation_weight = 0.0  # weight of the total variation of the planes [not in the paper]

  config.optimizer = optimizer = ConfigDict()
  optimizer.learning_rate = 4e-4  # peak of the schedule: AdamW, warm-up, then a cosine to 0 [B]
  optimizer.beta1 = 0.9  # [B]
  optimizer.beta2 = 0.95  # [B]
  optimizer.weight_decay = 0.05  # on kernels only [B; the mask M, C]
  optimizer.warmup_steps = 3000  # steps [B]
  optimizer.clip_norm = 1.0  # maximum global norm of the gradient [M, C]
  # For fine-tuning, patterns over the names of parameters, such as 'encoder/*' or '*/norm*'; '*' also matches '/', and
  # '!nerf/*' is everything else than 'nerf/*'.
  optimizer.freeze = ()  # patterns of parameters that do not change
  optimizer.multipliers = ()  # PATTERN=FACTOR, factors of the learning rate, such as ('encoder/*=0.1',)
  # PART=FACTOR, the factor of the learning rate from each layer to the one below it, such as ('encoder=0.75',).
  optimizer.layer_decay = ()  # parts are 'encoder' and 'decoder'
  optimizer.muon = False  # True: Muon for the kernels of transformer layers [ours; the paper uses AdamW]

  # The devices form a grid of dcn x data x fsdp; -1 takes the remaining devices. On many nodes: data = -1, fsdp = 8.
  config.mesh = mesh = ConfigDict()
  mesh.dcn = 1  # slices of TPUs, or other parts that are only connected by a data-centre network [ours]
  mesh.data = 1  # groups of devices; each group holds all parameters [ours]
  mesh.fsdp = -1  # devices in a group; they share its parameters [ours]
  return config
