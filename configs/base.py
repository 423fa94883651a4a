"""LRM as the paper trains it (arXiv 2311.04400): one picture of 512 px -> 3 planes of 64 x 64 x 80.

  python -m lrm_jax.train --config=configs/base.py --workdir=runs/base --config.data.path=DIR \
      --config.loss.lpips_network=vgg16_lpips.npz --config.encoder_weights=dino_vitbase16_pretrain.pth

Hardware: the paper used 128 A100 of 40 GB for about 3 days (1,024 objects a step, 30 epochs of 730,648 rendered
objects and 220,219 videos seen three times an epoch: about 1.39 million objects an epoch). On fewer devices set
--config.gradient_accumulation, which keeps the batch, and give the days.
`python -m lrm_jax.train --config=configs/base.py --dry_run` prints parameters, memory and operations of a step.
To expect: 451 million parameters (the paper says about 500). No loss curve of it has been published; nor have we one yet.

After each number: its unit, and where it is from.
  [P] the paper; [B] restated by later papers; [C] what every follower does; [M] recalled, no text could be read;
  [ours] our choice, where the sources are silent.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()

  config.num_train_steps = 40_730  # steps: 30 epochs of 1.39 million objects [P] in batches of 1,024
  config.batch_size = 1024  # objects a step, over all devices [P]
  config.gradient_accumulation = 1  # micro-batches a step [ours]
  config.rays_per_chunk = (
    0  # rays of each object that are rendered at once; 0: as many as fit a fifth of the memory [ours]
  )
  config.seed = 0  # of the parameters, the data's order and the samples along rays
  config.log_every = 10  # steps between lines of metrics.jsonl [ours]
  config.checkpoint_every = 500  # steps [ours]
  config.keep_every = 10_000  # steps: checkpoints at its multiples stay for good; 0: only the last two [ours]
  config.eval_every = 1000  # steps between figures and pictures of held-out objects [ours]
  config.max_skipped_steps = 10  # in a row, whose loss or gradient is no number or a spike; then the run stops [ours]
  config.loss_spike = 5.0  # times the running mean of the loss, above which a step is skipped; 0: never [ours]
  config.init_from = ''  # model that all parameters start from: a run directory, OpenLRM's, TripoSR's, hf://owner/name
  config.encoder_weights = ''  # file that the encoder starts from: DINO ViT-B/16 [P]; '': at random

  config.model = model = ConfigDict()
  model.architecture = 'lrm'  # lrm, openlrm or triposr: lrm_jax/models/
  model.image_size = 512  # px [B]
  model.encoder = 'dino'  # dino or dinov2 [P]
  model.patch_size = 16  # px: DINO ViT-B/16, 32 x 32 patches and the class token: 1,025 tokens [P]
  model.encoder_width = 768  # channels [P]
  model.encoder_depth = 12  # layers [P]
  model.encoder_num_heads = 12  # [P]
  model.encoder_table_size = 14  # patches along the side that DINO's position table is for (224 px) [P]
  model.encoder_interpolate_offset = 0.1  # added to the patches along a side where the table is stretched [DINO's code]
  model.camera_width = 1024  # channels of the camera embedding [C]
  model.decoder_width = 1024  # channels [P]
  model.decoder_depth = 16  # layers [P]
  model.decoder_num_heads = 16  # [C]
  model.triplane_resolution = 32  # tokens along the side of a plane: 3 x 32 x 32 = 3,072 [P]
  model.triplane_upsample = 2  # texels a token along the side: planes of 64 x 64 [P]
  model.triplane_channels = 80  # [P]
  model.plane_axes = ('xy', 'xz', 'zy')  # along width and height of each plane [C; the paper does not say]
  model.nerf_width = 64  # channels [P]
  model.nerf_depth = 10  # linear layers, the output among them [M]
  model.num_samples = 128  # a ray [B, C]
  model.density_scale = 1.0  # density = scale * softplus(s - 1), per world unit [ours; softplus C]
  model.color_padding = 0.001  # that the sigmoid of colours is stretched by at both ends [C]
  model.sinusoidal_positions = False  # learned tables start at noise [P]
  model.remat = (
    'dots'  # kept for the backward pass: products with weights; 'full': inputs of layers alone; 'none': all [ours]
  )
  model.dtype = 'bfloat16'  # of the networks; parameters, cameras, compositing: float32 [B]

  config.data = data = ConfigDict()
  data.path = ''  # directory of a dataset built by data/build.py (the one with dataset_info.json)
  data.times = 1.0  # that each of its objects is seen in an epoch
  data.train_split = 'train'
  data.eval_split = 'test'
  data.eval_objects = 100  # held-out objects [P: 50 + 50]
  data.eval_size = 128  # px of the evaluated views [ours]
  data.num_side_views = 3  # supervised views beside the input view [P]
  data.window = 128  # px: the part of a view that is rendered [B]
  data.resize_min = 128  # px: views are resized to a random size first [B]
  data.resize_max = 384  # px [B]
  data.foreground_bias = 0.0  # probability that a window is centred on the object and not anywhere [ours]
  data.background = (1.0,)  # greys, of which each target view has one: white [B, C]
  data.input_background = 1.0  # grey around the object of the input picture [B, C]
  data.normalise_cameras = True  # the input view to [0, -2, 0], the scene with it [P]
  data.keep_distance = False  # to [0, -d, 0] instead, with its own distance d
  data.mirror = False  # reflect half of the scenes [ours]
  data.permute_colors = False  # red, green, blue in a random order, the same in all views of an example [ours]
  data.frontal_input_probability = 0.0  # that the input is view 0, else any view alike [ours]
  data.num_workers = 8  # processes a host that read and decode [ours]
  data.max_broken_share = (
    0.01  # of the records: more that are damaged stop the run; others are replaced, and logged [ours]
  )
  data.fov = 50.0  # degrees: the view of a picture that comes without a camera [C]
  data.fill = 0.58  # of the picture's side, by the object's longer side, in a picture without a camera [ours, measured]
  # Datasets beside `path`, by name: a path (empty: left out), and what of the above differs. An epoch has them all.
  data.mixture = ConfigDict()
  data.mixture.mvimgnet = ConfigDict(dict(path='', times=3.0, keep_distance=True))  # [P]

  config.loss = loss = ConfigDict()
  loss.lpips_weight = 2.0  # beside MSE with weight 1 [P]
  loss.lpips_network = ''  # file of VGG16 and LPIPS weights; docs/weights.md tells where from
  loss.mask_weight = 0.0  # of the squared error of the opacity [ours; the paper has none]
  loss.mask_entropy_weight = 0.0  # of the cross-entropy of the opacity [the paper has none]
  loss.total_variation_weight = 0.0  # of the planes [the paper has none]

  config.optimizer = optimizer = ConfigDict()
  optimizer.learning_rate = 4e-4  # peak, AdamW, cosine to 0 [B]
  optimizer.beta1 = 0.9  # [B]
  optimizer.beta2 = 0.95  # [B]
  optimizer.weight_decay = 0.05  # on kernels only [B; the mask M, C]
  optimizer.warmup_steps = 3000  # steps [B]
  optimizer.clip_norm = 1.0  # global norm of the gradient [M, C]
  optimizer.muon = False  # orthogonalised updates for the transformers' kernels [ours; the paper has AdamW]

  config.mesh = mesh = ConfigDict()
  mesh.data = 1  # groups of devices that each hold all parameters; -1: the rest [ours]
  mesh.fsdp = -1  # devices of a group, which share them; -1: the rest. Many nodes: data = -1, fsdp = 8 [ours]
  return config
